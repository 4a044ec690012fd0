"""Whether a timed call did its work: what it returned, against results found without it, on the inputs it had.

`bench.check` proves a provider before it is timed; this finds one that stops computing once it is. A witness takes what
is needed from the result the moment it should be complete, and `judge` compares it:

* Output, dq and dgates on sampled rows with the fp64 oracle; they depend on no other row's upstream gradient.
* All other gradients, on all rows, by what the symmetries of attention demand. A change of basis of queries and keys
  leaves the scores as they are, and one of values moves into the output, for every matrix A and kv head:
  sum k dk^T = sum dq q^T and sum v dv^T = sum o do^T, over all keys (summaries too) and all queries of the group.
* Every number must be finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.check import ORACLES, oracle_forward, rows_at_a_time
from bench.jobs import Job
from bench.providers import Problem, Provider, block_indices
from bench.records import Correctness, TensorError
from kernels import reference
from kernels.testing import Forward, Inputs, a_few_rows_at_a_time, relative_error, selection_errors

_ROWS = 32
# Sampled rows err by chance more or less than those of the check; its budget is for the rounding, this for the sample.
_SLACK = 3.0
# Where the check has no budget, as of branches and symmetries: rounding in bf16 makes a tenth of it, work left out on
# one row in a hundred twice as much.
_TOLERANCE = 0.05
# So few tokens may round better with one draw of inputs than with the next.
_FEW_TOKENS = 512
# A gradient this small beside the upstream gradient is zero in exact arithmetic, and has no relative error.
_VANISHING = 1e-12
_CHUNK = 2**16  # rows in fp32 at a time
_BY_ROW = ("o", "dq", "dgates")


@dataclass
class Witness:
    """Takes what `judge` needs from the result of a call, at once and on the current stream.

    Attributes:
        job, values, upstream: of the call.
        rows: int64 [R], the sampled tokens.
    """

    job: Job
    values: Problem
    upstream: Tensor
    rows: Tensor
    sampled: dict[str, Tensor] = field(default_factory=dict)  # of the tensors judged by row
    broken: dict[str, Tensor] = field(default_factory=dict)  # share of entries that are not finite
    symmetries: dict[str, Tensor] = field(default_factory=dict)  # relative violations

    def __call__(self, result: object) -> None:
        if not isinstance(result, dict):
            raise TypeError(f"a job's call must return its tensors by name, got {type(result).__name__}")
        if self.job.stage == "select":
            self.sampled = {"o": result["o"][:, self.rows]}
            return
        self.sampled = {name: result[name][self.rows] for name in _BY_ROW if name in result}
        self.broken = {name: (~x.isfinite()).float().mean() for name, x in result.items()}
        if "dq" in result:
            self.symmetries = _symmetry_violations(self.values.inputs, self.upstream, result)


def sampled_rows(provider: Provider, problem: Problem) -> Tensor:
    """int64 [R] sorted: the tokens that are judged; first, last and random ones, and whole regions of a packed one."""
    tokens = problem.layout.num_tokens
    generator = torch.Generator().manual_seed(problem.workload.seed + 2)
    chosen = torch.randperm(tokens, generator=generator)[:_ROWS]
    rows = torch.cat([chosen, torch.tensor([0, tokens - 1])]).unique().to(problem.device)
    if provider.family == "packed":
        # The query of a region is a mean, so that dq depends on the upstream gradients of all its tokens.
        coords = problem.layout.coords
        cells = torch.cat([coords[:, :1], coords[:, 1:] // 2], dim=1).unique(dim=0, return_inverse=True)[1]
        rows = torch.isin(cells, cells[rows]).nonzero().flatten()
    return rows


def judge(provider: Provider, witness: Witness, checked: Correctness) -> Correctness:
    """The verdict on what a call returned.

    Args:
        witness: of the call; its inputs and upstream gradient must still be as they were.
        checked: the check before it was timed; its budgets apply to the whole operator.
    """
    job, problem, rows = witness.job, witness.values, witness.rows
    tokens = problem.layout.num_tokens
    oracle = f"last call: fp64 {ORACLES[provider.family]}, {len(rows)} of {tokens:,} tokens; symmetries"
    if job.stage == "select":
        with torch.no_grad():
            wide = problem.inputs
            scores = reference.block_scores(wide.q.double(), wide.k_cmp.double(), problem.layout, rows=rows)
        wrong = selection_errors(witness.sampled["o"], scores)
        return Correctness(passed=wrong == 0, oracle=oracle, tensors=[], selection_errors=wrong)

    budgets = {}
    if job.stage == "total" and tokens >= _FEW_TOKENS:
        budgets = {tensor.name: _SLACK * tensor.budget for tensor in checked.tensors}
    expected = _expected(_oracle(provider, job, problem, rows), witness)
    upstream_norm = witness.upstream[rows].double().norm()
    errors = []
    for name, truth in expected.items():
        found = witness.sampled[name].double()
        if truth.norm() <= _VANISHING * upstream_norm:  # terms that cancel exactly; what is left is their rounding
            found, truth = found / upstream_norm, torch.zeros_like(truth)
        errors.append((name, relative_error(found, truth), budgets.get(name, _TOLERANCE)))
    errors += [(name, float(violation), _TOLERANCE) for name, violation in witness.symmetries.items()]
    errors += [(f"{name}, not finite", float(x), 0.0) for name, x in witness.broken.items() if float(x)]
    tensors = [TensorError(name=name, error=error, budget=budget) for name, error, budget in errors]
    return Correctness(passed=all(tensor.passed for tensor in tensors), oracle=oracle, tensors=tensors)


def _oracle(provider: Provider, job: Job, problem: Problem, rows: Tensor) -> Forward:
    """Inputs in any dtype -> exact output of the job on the rows."""
    layout = problem.layout
    if job.stage == "total":
        return oracle_forward(provider, problem, rows)
    blocks = block_indices(problem, provider.selection_impl or "auto") if job.stage == "slc" else None

    def forward(x: Inputs, some: Tensor | None) -> Tensor:
        if job.stage == "cmp":
            return reference.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, rows=some)
        if blocks is None:
            return reference.window_attention(x.q, x.k, x.v, layout, rows=some)
        chosen = blocks if some is None else blocks[:, some]
        return reference.selected_attention(x.q, x.k, x.v, chosen, layout, rows=some)

    return a_few_rows_at_a_time(forward, rows, rows_at_a_time(problem))


def _expected(oracle: Forward, witness: Witness) -> dict[str, Tensor]:
    """fp64: the exact values of what the witness sampled."""
    rows = witness.rows
    names = [name[1:] for name in witness.sampled if name != "o"]
    wide = Inputs(*(x.double() for x in witness.values.inputs.tensors()))
    for name in names:
        getattr(wide, name).requires_grad_()
    with torch.set_grad_enabled(bool(names)):
        o = oracle(wide)
    expected = {"o": o.detach()}
    if names:
        grads = torch.autograd.grad(o, [getattr(wide, name) for name in names], witness.upstream[rows].double())
        expected |= {f"d{name}": grad[rows] for name, grad in zip(names, grads, strict=True)}
    return expected


def _symmetry_violations(x: Inputs, upstream: Tensor, result: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far the gradients are from what the symmetries demand, relative to sums of random signs."""
    violations = {}
    terms = _pairs([(result["o"], upstream)])
    for names, queries in ((("k", "k_cmp"), (result["dq"], x.q)), (("v", "v_cmp"), (result["o"], upstream))):
        given = [name for name in names if f"d{name}" in result]
        if not given:
            continue
        keys, key_size = _pairs([(getattr(x, name), result[f"d{name}"]) for name in given])
        wanted, query_size = _pairs([queries])
        wanted = wanted.unflatten(0, (len(keys), -1)).sum(1)
        # Gradients may be small because their terms, of the size of o do, cancel: then so may their errors be.
        size = (key_size + query_size + terms[1]).sqrt()
        violations[" and ".join(f"d{name}" for name in given)] = (keys - wanted).norm() / size
    return violations


def _pairs(products: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """fp32 [heads, D, D]: the sum over rows of a b^T; and the sum of |a|^2 |b|^2, the square of its size by chance."""
    totals, sizes = [], []
    for a, b in products:
        for some_a, some_b in zip(a.split(_CHUNK), b.split(_CHUNK), strict=True):
            u, w = some_a.float(), some_b.float()
            totals.append(torch.einsum("nhd,nhe->hde", u, w))
            sizes.append((u.square().sum(-1) * w.square().sum(-1)).sum())
    return torch.stack(totals).sum(0), torch.stack(sizes).sum()
