"""What a study found, in sentences. Wins and losses are stated alike."""

from __future__ import annotations

from dataclasses import dataclass

from reports import formatting
from reports.providers import family, label
from reports.study import DIRECTION_NAMES, Comparison, Study, error_ratio, oracles, worst_error_ratio

_IN_THE_TIME = (
    "Forward (fwd) runs from q, k, v, the compressed k and v and the gates to the output; block scoring and top-k "
    "selection are in it. Backward (bwd) runs from the gradient of the output to theirs. The learned compression and "
    "the index structures are prepared outside the time."
)


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
    """The speedups at the most common tokens, the least speedup over the fastest dense provider, the worst error."""
    headlines = []
    for direction in study.directions:
        found = study.largest_common(direction)
        if found is None:
            continue
        meaning = f"{DIRECTION_NAMES[direction]} over {label(found.over)}, {formatting.tokens(found.tokens)} tokens"
        fastest = _over_fastest(study, found)
        if fastest.over != found.over:
            meaning += f"; {formatting.ratio(fastest.speedup)} over {label(fastest.over)}, the fastest dense provider"
        headlines.append(Headline(formatting.ratio(found.speedup), meaning))
    if study.against_fastest_dense:
        least = min(study.against_fastest_dense, key=lambda comparison: comparison.speedup)
        headlines.append(
            Headline(
                formatting.ratio(least.speedup),
                f"the least over the fastest dense provider: {DIRECTION_NAMES[least.direction]} over "
                f"{label(least.over)}, {formatting.tokens(least.tokens)} tokens",
            )
        )
    worst = _worst(study)
    if worst is not None:
        headlines.append(Headline(f"{worst[0]:.2f}", "largest error over its budget, of everything timed (limit 1)"))
    return headlines


def brief(study: Study) -> str:
    """The speedups over the baseline in half a line; empty where there are none."""
    found = [comparison for direction in study.directions if (comparison := study.largest_common(direction))]
    by_tokens: dict[int, list[str]] = {}
    for comparison in found:
        text = f"{formatting.ratio(comparison.speedup)} {DIRECTION_NAMES[comparison.direction]}"
        by_tokens.setdefault(comparison.tokens, []).append(text)
    parts = [f"{', '.join(texts)} at {formatting.tokens(tokens)} tokens" for tokens, texts in by_tokens.items()]
    return f"{'; '.join(parts)}, over {label(study.baseline or '')}" if parts else ""


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
        f"windows {shape.window}³{shift}. {_inputs(study)}"
    )


def _inputs(study: Study) -> str:
    """Where q, k and v come from."""
    if not study.captured:
        return "Inputs are standard normal."
    files = f"file{'s' if len(study.captured) > 1 else ''} {formatting.join(study.captured)}"
    return f"Inputs were captured in a trained model ({files}); NSA's summaries are means over its own blocks."


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
    found = oracles(record for record in study.totals if record.summary is not None)
    failed = sorted({record.provider for record in study.records if record.status == "failed_check"})
    text = (
        f"A provider is timed only after it passed its check. The largest error is {ratio:.2f} of its "
        f"budget ({label(provider)}: {tensor}). Oracle: {'; '.join(found)}."
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
    by_tokens: dict[int, list[Comparison]] = {}
    without = []
    for direction in study.directions:
        found = study.largest_common(direction)
        if found is None:
            without.append(DIRECTION_NAMES[direction])
            continue
        by_tokens.setdefault(found.tokens, []).append(found)
    sentences = []
    for tokens, comparisons in by_tokens.items():
        parts: list[str] = []
        rival = study.baseline
        for found in comparisons:
            text = f"{DIRECTION_NAMES[found.direction]} at {formatting.ratio(found.speedup)}"
            text += "" if parts else f" the speed of {label(study.baseline)}"
            fastest = _over_fastest(study, found)
            if fastest.over != study.baseline:
                text += f" and {formatting.ratio(fastest.speedup)}"
                if fastest.over != rival:
                    rival = fastest.over
                    text += f" that of {label(rival)}, the fastest dense provider"
            parts.append(text)
        sentences.append(f"At {tokens:,} tokens {label(study.subject)} runs {'; '.join(parts)}.")
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
    untold: dict[str, list[str]] = {}  # token counts -> passes that lack a dense time there
    for direction in study.directions:
        counts = [record.workload.tokens for record in study.curve(study.subject, direction)]
        missing = [formatting.tokens(count) for count in counts if (direction, count) not in compared]
        if missing:
            untold.setdefault(formatting.join(missing), []).append(DIRECTION_NAMES[direction])
    if untold:
        parts = [f"for {formatting.join(passes)} at {counts} tokens" for counts, passes in untold.items()]
        text += f" No dense provider has a time {'; '.join(parts)}."
    return text


def alternatives(study: Study) -> str:
    """The subject against what computes another function on fewer or other keys."""
    parts = []
    for provider in study.providers:
        if family(provider) in ("ssa", "dense"):
            continue
        found = [study.largest_common(direction, provider) for direction in study.directions]
        speedups: dict[int, list[str]] = {}
        for comparison in found:
            if comparison is not None:
                text = f"{DIRECTION_NAMES[comparison.direction]} {formatting.ratio(comparison.speedup)}"
                speedups.setdefault(comparison.tokens, []).append(text)
        parts += [
            f"over {label(provider)} at {formatting.tokens(tokens)} tokens {', '.join(texts)}"
            for tokens, texts in speedups.items()
        ]
    if not parts:
        return ""
    return (
        f"Speedup of {label(study.subject or '')} {'; '.join(parts)}. These compute other functions than SSA, so "
        "their speed does not rank them."
    )


def memory(study: Study) -> str:
    """Peak memory of the subject beside the baseline, at the most tokens both were timed at."""
    by_tokens: dict[int, list[str]] = {}
    for direction in study.directions:
        found = study.largest_common(direction)
        if study.subject is None or found is None:
            continue
        ours = study.find(study.subject, direction, found.tokens)
        theirs = study.find(found.over, direction, found.tokens)
        if ours is None or theirs is None or not ours.peak_memory_bytes or not theirs.peak_memory_bytes:
            continue
        parts = by_tokens.setdefault(found.tokens, [])
        parts.append(
            f"{DIRECTION_NAMES[direction]} {formatting.mebibytes(ours.peak_memory_bytes)} MiB, "
            f"{formatting.ratio(ours.peak_memory_bytes / theirs.peak_memory_bytes)}"
            + ("" if parts else f" that of {label(found.over)}")
        )
    return " ".join(
        f"At {tokens:,} tokens {label(study.subject or '')} takes above its inputs: {'; '.join(parts)}."
        for tokens, parts in by_tokens.items()
    )


def findings(study: Study) -> list[Finding]:
    """The header of a study, the answer first."""
    found = [
        Finding("Result", result(study)),
        Finding("Losses", losses(study)),
        Finding("Other functions", alternatives(study)),
        Finding("Memory", memory(study)),
        Finding("Measured", measured(study)),
        Finding("In the time", _IN_THE_TIME),
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
            worst = (ratio, record.provider, max(record.correctness.tensors, key=error_ratio).name)
    return worst


def _over_fastest(study: Study, found: Comparison) -> Comparison:
    """The same cell against the fastest dense provider there."""
    return next(
        comparison
        for comparison in study.against_fastest_dense
        if (comparison.direction, comparison.tokens) == (found.direction, found.tokens)
    )
