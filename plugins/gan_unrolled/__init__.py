"""Unrolled GAN: G plays against the D of a few steps ahead (Metz et al. 2017)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``unrolled``."""
    from . import checks
    from .trainer import UnrolledConfig, build, served

    return [
        Variant(
            name="unrolled",
            paper="arXiv:1611.02163",
            config=UnrolledConfig,
            build=build,
            served=served,
            tiny={"resolution_px": 8, "width": 8, "z_dim": 8, "unroll_steps": 2},
            paper_checks=(
                PaperCheck("G's gradient goes through D's next steps", checks.differentiable),
                PaperCheck("it is the true gradient, to finite differences", checks.true_gradient),
                PaperCheck("the steps ahead are those that D would take", checks.foresight),
                PaperCheck("D is as it was after G's step", checks.restored),
                PaperCheck("G plays the whole game, real images included", checks.whole_game),
                PaperCheck("no step ahead is the plain GAN", checks.plain),
            ),
        )
    ]
