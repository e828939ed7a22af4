"""WGAN-GP: a critic whose gradient's norm is kept at 1 (Gulrajani et al. 2017)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``wgan_gp``."""
    from gan_core.checks import linear_loss, no_norm_in_discriminator

    from . import checks
    from .trainer import WGANGPConfig, build, served

    return [
        Variant(
            name="wgan_gp",
            paper="arXiv:1704.00028",
            config=WGANGPConfig,
            build=build,
            served=served,
            tiny={"resolution_px": 16, "width": 8, "z_dim": 16, "batch_size_G": 8},
            paper_checks=(
                PaperCheck("both losses are linear in the logits: no log", linear_loss),
                PaperCheck("critic has no normalisation layer", no_norm_in_discriminator),
                PaperCheck(
                    "the penalty is 10·(‖∇D‖ − 1)², its norm per sample over C, H and W",
                    checks.norm_per_sample,
                ),
                PaperCheck("each sample has its own ε, and one only", checks.epsilon_per_sample),
                PaperCheck("the penalty is float32 under autocast", checks.penalty_in_float32),
                PaperCheck("Adam with learning rate 2e-4 and betas 0 and 0.9", checks.adam),
                PaperCheck("both learning rates fall linearly to 0", checks.linear_decay),
                PaperCheck("five critic steps before each G step", checks.five_to_one),
                PaperCheck("G's batch is twice the critic's", checks.double_batch),
                PaperCheck("a critic trained to its optimum estimates W₁", checks.estimates_w1),
            ),
        )
    ]
