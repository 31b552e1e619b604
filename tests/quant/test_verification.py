"""Thresholds, and what goes into the JSON."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cg.quant.agreement import Agreement, Completed
from cg.quant.statistics import Estimate, Figures, score_tokens, summarize
from cg.quant.verification import Computed, Run, Section, Thresholds
from cg.runtime.errors import UsageError, VerificationError

_EQUAL = np.eye(4, dtype=np.float32)
FIGURES = replace(
    summarize(score_tokens(_EQUAL, _EQUAL, np.arange(4, dtype=np.int32))),
    ppl_ratio=Estimate(1.05, 0.2),
    mean_kld=Estimate(0.1, 0.2),
)
TEXT = Section("python", "text", "a text", "", 512, 4)
MIDDLES = replace(TEXT, task="middles")


def run_of(*figures: Figures, agreement: Agreement | None = None) -> Run:
    return Run(Computed("numpy", "numpy", 1, "f32"), figures, figures[0], None, (0.0, 0.1), agreement)


@pytest.mark.parametrize(
    ("thresholds", "misses"),
    [
        (Thresholds(), []),
        (Thresholds(1.05, 0.1), []),  # reached is not missed, and the error does not matter
        (Thresholds(1.04, None), ["perplexity ratio 1.05 is above 1.04"]),
        (Thresholds(None, 0.0), ["mean KL divergence 0.1 is above 0"]),
        (
            Thresholds(0.5, 0.05),
            ["perplexity ratio 1.05 is above 0.5", "mean KL divergence 0.1 is above 0.05"],
        ),
    ],
)
def test_thresholds(thresholds: Thresholds, misses: list[str]) -> None:
    # What middles say has no part in it.
    figures, sections = (FIGURES, replace(FIGURES, mean_kld=Estimate(9.0, 0.1))), (TEXT, MIDDLES)
    assert thresholds.misses(run_of(*figures), sections) == misses
    if misses:
        with pytest.raises(VerificationError) as error:
            thresholds.require(run_of(*figures), sections)
        assert error.value.message == "; ".join(misses)
    else:
        thresholds.require(run_of(*figures), sections)


def test_every_text_has_to_be_good_enough() -> None:
    worse = replace(FIGURES, mean_kld=Estimate(0.3, 0.2))
    misses = Thresholds(max_kld=0.2).misses(run_of(FIGURES, worse), (TEXT, replace(TEXT, kind="go")))
    assert misses == ["go: mean KL divergence 0.3 is above 0.2"]


def test_agreement_has_a_least_share() -> None:
    holes = [Completed("", "", "", "", 5, n, n == 5) for n in (5, 5, 5, 2)]
    run = run_of(FIGURES, agreement=Agreement.of(holes))
    assert Thresholds(min_agreement=0.75).misses(run, (TEXT,)) == []
    assert Thresholds(min_agreement=0.8).misses(run, (TEXT,)) == [
        "agreement of completions 0.75 is below 0.8"
    ]
    with pytest.raises(UsageError, match="agreement was not measured"):
        Thresholds(min_agreement=0.8).misses(run_of(FIGURES), (TEXT,))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["max_ppl_ratio", "max_kld", "min_agreement"])
def test_impossible_thresholds(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="expected a number"):
        Thresholds(**{name: value})
