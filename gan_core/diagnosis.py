"""What a run's statistics say in plain words: what is wrong, how one sees it, and what to try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Finding", "diagnose"]

FEWEST_TICKS = 8
"""Below that nothing can be said."""
RECENT = 0.25
"""Share of a run that is the present."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a run's statistics show."""

    severity: Literal["good", "notice", "bad"]
    name: str
    """The field's name for it, such as mode collapse."""
    evidence: str
    """What was measured."""
    advice: str
    """What to try."""


def diagnose(
    rows: Sequence[Mapping[str, float]],
    events: Iterable[Mapping[str, object]] = (),
    scores: Sequence[Mapping[str, float]] = (),
) -> list[Finding]:
    """What is wrong with a run, worst first; a finding that says so if nothing is.

    Args:
        rows: of metrics.jsonl, one a tick.
        events: of guard.jsonl.
        scores: of scores.jsonl.
    """
    if len(rows) < FEWEST_TICKS:
        return [
            Finding(
                "notice",
                "too short",
                f"{len(rows)} ticks",
                f"train on: from {FEWEST_TICKS} ticks on there is something to see",
            )
        ]
    series = _series(rows)
    found = [finding for look in LOOKS for finding in look(series)]
    found += _guarded(events) + _past_its_best(scores)
    if not found:
        last = ", ".join(f"{k} {v[-1]:.3g}" for k, v in series.items() if k.startswith("loss/"))
        return [Finding("good", "healthy", f"nothing stands out ({last})", "train on, or export")]
    return sorted(found, key=lambda finding: finding.severity != "bad")


Series = dict[str, "NDArray[np.float64]"]


def _series(rows: Sequence[Mapping[str, float]]) -> Series:
    """Each statistic over the ticks that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row[name] for row in rows if name in row]) for name in names}


def _recent(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[-max(3, round(len(values) * RECENT)) :]


def _mode_collapse(series: Series) -> list[Finding]:
    diversity = series.get("diversity")
    if diversity is None or (now := float(np.median(_recent(diversity)))) >= 0.4:
        return []
    return [
        Finding(
            "bad",
            "mode collapse",
            f"pixels of generated images vary {now:.2g} times as much as those of real ones",
            "let D see batches (minibatch=stddev or discrimination), a gradient penalty "
            "(r1_gamma), a lower lr_G, or a variant made against it: unrolled, wgan_gp, r3gan",
        )
    ]


def _strong_discriminator(series: Series) -> list[Finding]:
    if not {"accuracy/real", "accuracy/fake"} <= series.keys():
        return []
    right = min(np.median(_recent(series[f"accuracy/{kind}"])) for kind in ("real", "fake"))
    if right < 0.98:
        return []
    gradient = series.get("gradient_norm/G", np.ones(1))
    before, now = gradient[: len(gradient) // 4 + 1].max(), np.median(_recent(gradient))
    vanishing = bool(now < 0.03 * before)
    if vanishing:
        return [
            Finding(
                "bad",
                "vanishing gradient",
                f"D is right about {right:.0%} of images, and G's gradient norm fell from "
                f"{before:.2g} to {now:.2g}: it learns nothing any more",
                "the non-saturating loss instead of minimax, a Wasserstein loss (wgan_gp), "
                "instance_noise, or a weaker D: lower lr_D, real_target=0.9",
            )
        ]
    return [
        Finding(
            "notice",
            "discriminator too strong",
            f"D is right about {right:.0%} of both real and generated images",
            "r1_gamma, augment=ada (few images?), real_target=0.9, n_generator=2, a lower lr_D; "
            "harmless for a critic as long as samples improve",
        )
    ]


def _dead_critic(series: Series) -> list[Finding]:
    if not {"logits/real", "logits/fake", "gradient_norm/D"} <= series.keys():
        return []
    gap = np.abs(_recent(series["logits/real"]) - _recent(series["logits/fake"]))
    norm = float(np.median(_recent(series["gradient_norm/D"])))
    G = float(np.median(_recent(series.get("gradient_norm/G", np.ones(1)))))
    if not (float(np.median(gap)) < 1e-3 and G < 1e-3):
        return []
    return [
        Finding(
            "bad",
            "dead critic",
            f"logits of real and generated images are {np.median(gap):.1g} apart, and gradients "
            f"are {norm:.1g} (D) and {G:.1g} (G)",
            "a larger clip, a gradient penalty instead of clipping (wgan_gp), a higher lr_D, "
            "no BatchNorm in the critic",
        )
    ]


def _exploding(series: Series) -> list[Finding]:
    found = []
    for side in ("G", "D"):
        norm = series.get(f"gradient_norm/{side}")
        if norm is None or (most := float(norm.max())) <= max(1e4, 100 * float(np.median(norm))):
            continue
        found.append(f"{side}'s gradient norm reached {most:.2g} (median {np.median(norm):.2g})")
    for kind in ("real", "fake"):
        logits = series.get(f"logits/{kind}")
        if logits is not None and (most := float(np.abs(logits).max())) > 1e3:
            found.append(f"logits of {kind} images reached {most:.2g}")
    if not found:
        return []
    return [
        Finding(
            "bad",
            "explosion",
            "; ".join(found),
            "lower learning rates, clip_gradients, r1_gamma or spectral_norm, and guard=rollback "
            "to save what was learnt",
        )
    ]


def _oscillation(series: Series) -> list[Finding]:
    loss = series.get("loss/G")
    if loss is None or len(loss) < 4 * FEWEST_TICKS:
        return []
    recent = loss[len(loss) // 2 :]
    smooth = np.convolve(recent, np.ones(3) / 3, mode="valid")
    time = np.arange(len(smooth))
    swing = smooth - np.polyval(np.polyfit(time, smooth, 1), time)
    turns = int((np.diff(np.sign(swing)) != 0).sum())
    # white noise, smoothed over 3, turns every 2.6 ticks or so; a swing takes longer
    size = float(swing.std() / max(np.abs(smooth).mean(), 1e-9))
    lasting = float(np.corrcoef(swing[:-3], swing[3:])[0, 1]) if swing.std() > 0 else 0.0
    if size < 0.3 or lasting < 0.3 or turns < 3:
        return []
    return [
        Finding(
            "notice",
            "oscillation",
            f"G's loss swings by ±{size:.0%} round its trend, {turns} times in the second half",
            "smaller or decaying learning rates (lr_schedule=cosine), two time scales "
            "(lr_D above lr_G), r1_gamma, a longer ema_halflife_kimg, which averages swings out",
        )
    ]


def _guarded(events: Iterable[Mapping[str, object]]) -> list[Finding]:
    rolled = [event for event in events if event.get("event") == "rollback"]
    if not rolled:
        return []
    texts = "; ".join(f"{event['kimg']:g} kimg: {event['text']}" for event in rolled[-3:])
    return [
        Finding("notice", "rolled back", texts, "lower learning rates; the settings are at an edge")
    ]


def _past_its_best(scores: Sequence[Mapping[str, float]]) -> list[Finding]:
    fids = [(row["fid"], row["kimg"]) for row in scores if "fid" in row]
    if len(fids) < 3:
        return []
    (best, at), (last, _) = min(fids), fids[-1]
    if last <= 1.25 * best:
        return []
    return [
        Finding(
            "notice",
            "past its best",
            f"FID was {best:.3g} at {at:g} kimg and is {last:.3g} now",
            "stop there next time (--kimg), or decay the learning rates by then",
        )
    ]


LOOKS: tuple[Callable[[Series], list[Finding]], ...] = (
    _exploding,
    _dead_critic,
    _mode_collapse,
    _strong_discriminator,
    _oscillation,
)
