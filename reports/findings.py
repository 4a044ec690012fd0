"""What a study found, in sentences. Wins and losses are stated alike."""

from __future__ import annotations

from dataclasses import dataclass

from reports import formatting
from reports.providers import label
from reports.study import DIRECTION_NAMES, Study, worst_error_ratio


@dataclass(frozen=True)
class Headline:
    """One headline number."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Finding:
    topic: str
    text: str


def headline(study: Study) -> list[Headline]:
    """The speedups at the most common tokens, and the worst error."""
    headlines = [
        Headline(
            formatting.ratio(found.speedup),
            f"{DIRECTION_NAMES[direction]}, {label(study.subject or '')} over {label(found.over)}, "
            f"{formatting.tokens(found.tokens)} tokens",
        )
        for direction in study.directions
        if (found := study.largest_common(direction)) is not None
    ]
    worst = _worst(study)
    if worst is not None:
        headlines.append(Headline(f"{worst[0]:.2f}", "largest error over its budget, of everything timed (limit 1)"))
    return headlines


def measured(study: Study) -> str:
    """What was run."""
    shape = study.shape
    passes = formatting.join([DIRECTION_NAMES[direction] for direction in study.directions])
    smallest, largest = study.tokens[0], study.tokens[-1]
    counts = f"{smallest:,} tokens" if smallest == largest else f"{smallest:,} to {largest:,} tokens"
    batch = f" in batches of {study.batch_size}" if study.batch_size > 1 else ""
    shift = f" shifted by {shape.window_shift}" if shape.window_shift else ""
    return (
        f"{passes.capitalize()} passes of spatial sparse attention and its alternatives on the workload "
        f"“{study.workload}”{batch}, {counts}; {shape.heads} heads of dimension {shape.head_dim}, {shape.kv_heads} "
        f"key/value head{'s' if shape.kv_heads != 1 else ''}, {shape.dtype}; compression blocks "
        f"{shape.compression_block}³, the top {shape.topk} selection blocks {shape.selection_block}³, "
        f"windows {shape.window}³{shift}."
    )


def ran_on(study: Study) -> str:
    """The environment in one line."""
    environment = study.environment
    parts = [environment.device]
    if environment.driver:
        parts.append(f"driver {environment.driver}")
    if environment.device_type == "cpu":
        parts.append(f"{environment.threads} threads")
    parts.append(f"PyTorch {environment.torch}")
    parts.append(f"Triton {environment.triton}" if environment.triton else "no Triton")
    parts.append(f"commit {formatting.join(study.commits)}")
    return f"{', '.join(parts)}."


def proven(study: Study) -> str:
    """How correctness was established."""
    worst = _worst(study)
    if worst is None:
        return "Nothing passed a check, so nothing has a time."
    ratio, provider, tensor = worst
    oracles = dict.fromkeys(
        record.correctness.oracle for record in study.totals if record.summary is not None and record.correctness
    )
    failed = sorted({record.provider for record in study.records if record.status == "failed_check"})
    text = (
        f"A provider is timed only after it passed its check. The largest error is {ratio:.2f} of its "
        f"budget ({tensor} of {label(provider)}). Oracle: {'; '.join(oracles)}."
    )
    if failed:
        text += f" Failed the check, and so not timed: {formatting.join(failed)}."
    return text


def result(study: Study) -> str:
    """The speedup over the baseline, and over the fastest dense provider, at the most tokens both reached."""
    if study.subject is None:
        return "No SSA implementation has a time, so there is no speedup to state."
    if study.baseline is None:
        return "No dense provider has a time, so there is no speedup to state."
    by_tokens: dict[int, list[str]] = {}
    without = []
    for direction in study.directions:
        found = study.largest_common(direction)
        if found is None:
            without.append(DIRECTION_NAMES[direction])
            continue
        text = f"{DIRECTION_NAMES[direction]} {formatting.ratio(found.speedup)}"
        fastest = next(c for c in study.against_fastest_dense if (c.direction, c.tokens) == (direction, found.tokens))
        if fastest.over != found.over:
            text += f" ({formatting.ratio(fastest.speedup)} that of the fastest dense provider, {label(fastest.over)})"
        by_tokens.setdefault(found.tokens, []).append(text)
    sentences = [
        f"At {tokens:,} tokens {label(study.subject)} runs at this multiple of the speed of {label(study.baseline)}: "
        f"{', '.join(parts)}."
        for tokens, parts in by_tokens.items()
    ]
    if without:
        sentences.append(f"No token count has a time of both for: {', '.join(without)}.")
    if not study.has_flash_attention_2:
        sentences.append(
            f"FlashAttention-2 has no time here, so the baseline is {label(study.baseline)} ({study.baseline}), the "
            "fastest dense provider."
        )
    return " ".join(sentences)


def repeats(study: Study) -> str:
    """How many measurements were made again."""
    if not study.superseded:
        return ""
    return (
        f"{study.superseded} older measurement{'s' if study.superseded > 1 else ''} of the same quantity left out in "
        "favour of the newest; results.csv has all."
    )


def losses(study: Study) -> str:
    """Where the subject is slower than the fastest dense provider, and where that could not be told."""
    comparisons = study.against_fastest_dense
    if study.subject is None or not comparisons:
        return ""
    name = label(study.subject)
    lost = [comparison for comparison in comparisons if comparison.is_loss]
    if lost:
        rivals = list(dict.fromkeys(comparison.over for comparison in lost))
        parts = []
        for direction in study.directions:
            here = [
                f"{formatting.tokens(found.tokens)} tokens ({formatting.ratio(found.speedup)}"
                + (f" against {label(found.over)})" if len(rivals) > 1 else ")")
                for found in lost
                if found.direction == direction
            ]
            if here:
                parts.append(f"{DIRECTION_NAMES[direction]} at {formatting.join(here)}")
        rival = f", {label(rivals[0])}" if len(rivals) == 1 else ""
        text = f"{name} is slower than the fastest dense provider{rival}: {'; '.join(parts)}."
    else:
        text = f"None: {name} is at least as fast as every dense provider at each token count where both have a time."
    compared = {(comparison.direction, comparison.tokens) for comparison in comparisons}
    untold = [
        f"{DIRECTION_NAMES[direction]} at {formatting.tokens(record.workload.tokens)}"
        for direction in study.directions
        for record in study.curve(study.subject, direction)
        if (direction, record.workload.tokens) not in compared
    ]
    if untold:
        text += f" No dense provider has a time for {formatting.join(untold)} tokens."
    return text


def findings(study: Study) -> list[Finding]:
    """The header of a study, the answer first."""
    found = [
        Finding("Result", result(study)),
        Finding("Losses", losses(study)),
        Finding("Measured", measured(study)),
        Finding("Ran on", ran_on(study)),
        Finding("Correctness", proven(study)),
        Finding("Repeats", repeats(study)),
    ]
    return [finding for finding in found if finding.text]


def _worst(study: Study) -> tuple[float, str, str] | None:
    """Largest error / budget of what was timed: ratio, provider, tensor."""
    worst: tuple[float, str, str] | None = None
    for record in study.totals:
        ratio = worst_error_ratio(record)
        if record.summary is None or record.correctness is None or ratio is None:
            continue
        if worst is None or ratio > worst[0]:
            tensor = max(record.correctness.tensors, key=lambda t: t.error / t.budget if t.budget > 0 else 0.0)
            worst = (ratio, record.provider, tensor.name)
    return worst
