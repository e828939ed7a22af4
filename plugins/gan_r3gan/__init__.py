"""R3GAN: a relativistic loss, two gradient penalties, and no other trick (Huang et al. 2024)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``r3gan``."""
    from . import checks
    from .trainer import R3GANConfig, build, served

    return [
        Variant(
            name="r3gan",
            paper="arXiv:2501.05441",
            config=R3GANConfig,
            build=build,
            served=served,
            tiny={"batch_size": 4, "z_dim": 8, "width": 8, "max_width": 16, "group_size": 4},
            paper_checks=(
                PaperCheck("no normalisation anywhere", checks.no_norm),
                PaperCheck("each fake is compared with a real", checks.relativistic),
                PaperCheck("R1 and R2 on every step, with the same γ", checks.two_penalties),
                PaperCheck("every residual block starts as the identity", checks.identity_blocks),
                PaperCheck(
                    "other layers of a block start scaled by L^(-1/4)", checks.scaled_weights
                ),
                PaperCheck("3×3 convolutions are grouped", checks.grouped),
                PaperCheck("resampling is bilinear, [1, 2, 1]", checks.bilinear),
                PaperCheck("no momentum, and beta2 rises", checks.betas),
                PaperCheck("learning rate, γ and beta2 follow one cosine", checks.one_cosine),
            ),
        )
    ]
