"""Vanilla GAN: two multilayer perceptrons (Goodfellow et al. 2014)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``vanilla``."""
    from gan_core.checks import no_norm_in_discriminator, one_to_one

    from . import checks
    from .trainer import VanillaConfig, build, served

    return [
        Variant(
            name="vanilla",
            paper="arXiv:1406.2661",
            config=VanillaConfig,
            build=build,
            served=served,
            tiny={"resolution_px": 8, "widths": (16, 32), "z_dim": 8},
            paper_checks=(
                PaperCheck("both networks are multilayer perceptrons", checks.only_linear),
                PaperCheck("D has no BatchNorm", no_norm_in_discriminator),
                PaperCheck("BatchNorm's epsilon is tiny, not its momentum", checks.norm_epsilon),
                PaperCheck("one D step per G step", one_to_one),
                PaperCheck("G maximises log D(G(z))", checks.non_saturating),
                PaperCheck(
                    "a D trained to its optimum is p_data / (p_data + p_g)",
                    checks.optimal_discriminator,
                ),
            ),
        )
    ]
