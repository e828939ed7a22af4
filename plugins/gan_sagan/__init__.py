"""SAGAN: feature maps that attend to themselves (Zhang et al. 2019)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``sagan``."""
    from gan_core.checks import (
        attention_starts_off,
        hinge,
        one_to_one,
        projection,
        shortcuts,
        spectral_norm,
        spectral_norm_rests,
    )

    from . import checks
    from .trainer import SAGANConfig, build, served

    return [
        Variant(
            name="sagan",
            paper="arXiv:1805.08318",
            config=SAGANConfig,
            build=build,
            served=served,
            tiny={"resolution_px": 16, "width": 8, "z_dim": 8},
            paper_checks=(
                PaperCheck("spectral norm on every layer of both networks", spectral_norm),
                PaperCheck("spectral norm rests in evaluation", spectral_norm_rests),
                PaperCheck("G's average has G's singular vectors", checks.average_is_normalised),
                PaperCheck("hinge loss", hinge),
                PaperCheck("attention starts as the identity", attention_starts_off),
                PaperCheck("attention weights sum to 1 over the keys", checks.attention_weights),
                PaperCheck("keys and values are pooled 2×2", checks.attention_is_pooled),
                PaperCheck("every block of G normalises per class", checks.conditional_norms),
                PaperCheck("D projects its features on the class", projection),
                PaperCheck("no activation overwrites what a shortcut reads", shortcuts),
                PaperCheck("D learns four times as fast as G", checks.two_time_scales),
                PaperCheck("Adam with betas 0 and 0.9", checks.adam),
                PaperCheck("one D step per G step", one_to_one),
            ),
        )
    ]
