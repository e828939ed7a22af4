"""WGAN: a critic that estimates the Wasserstein distance (Arjovsky et al. 2017)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``wgan``."""
    from gan_core.checks import linear_loss, no_norm_in_discriminator

    from . import checks
    from .trainer import WGANConfig, build, served

    return [
        Variant(
            name="wgan",
            paper="arXiv:1701.07875",
            config=WGANConfig,
            build=build,
            served=served,
            tiny={
                "resolution_px": 16,
                "width": 8,
                "z_dim": 16,
                "n_critic": 1,
                "n_critic_warmup": 3,
                "warmup_g_steps": 1,
                "warmup_every": 3,
            },
            paper_checks=(
                PaperCheck("both losses are linear in the logits: no log", linear_loss),
                PaperCheck("critic has no normalisation layer", no_norm_in_discriminator),
                PaperCheck("critic's weights lie within ±0.01 after its steps", checks.clipped),
                PaperCheck("a critic trained to its optimum estimates W₁", checks.estimates_w1),
                PaperCheck("RMSProp with learning rate 5e-5, no momentum", checks.rmsprop),
                PaperCheck(
                    "100 critic steps before G's first 25 and each 500th, else 5",
                    checks.critic_steps,
                ),
            ),
        )
    ]
