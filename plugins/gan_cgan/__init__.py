"""Conditional GAN: both networks are told the class (Mirza & Osindero 2014)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``cgan``."""
    from gan_core.checks import no_norm_in_discriminator

    from . import checks
    from .trainer import CGANConfig, build, served

    return [
        Variant(
            name="cgan",
            paper="arXiv:1411.1784",
            config=CGANConfig,
            build=build,
            served=served,
            task="class-conditional",
            tiny={
                "resolution_px": 8,
                "z_dim": 8,
                "widths_G": (16, 16, 32),
                "widths_D": (32, 16, 16),
            },
            paper_checks=(
                PaperCheck("the label changes G's images", checks.label_changes_images),
                PaperCheck("the label changes D's logits", checks.label_changes_logits),
                PaperCheck(
                    "in both networks the label has a layer of its own before the joint one",
                    checks.label_has_its_own_layer,
                ),
                PaperCheck(
                    "fakes are made with the real batch's labels",
                    checks.fakes_have_real_labels,
                ),
                PaperCheck("both losses are conditional on the label", checks.conditional_losses),
                PaperCheck("D has no normalisation", no_norm_in_discriminator),
            ),
        )
    ]
