"""SRGAN: photographs two or four times as large (Ledig et al. 2017), and ESRGAN's changes to it."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``srgan``."""
    from . import checks
    from .trainer import SRGANConfig, build, served

    return [
        Variant(
            name="srgan",
            paper="arXiv:1609.04802",
            config=SRGANConfig,
            build=build,
            served=served,
            task="super-resolution",
            tiny={
                "objective": "gan",
                "width": 4,
                "width_D": 4,
                "blocks": 2,
                "perceptual": "untrained",
            },
            paper_checks=(
                PaperCheck("G's convolutions are 9×9 outside and 3×3 inside", checks.kernels),
                PaperCheck("BatchNorm in G's body, and nowhere else in G", checks.generator_norms),
                PaperCheck("×4 is two PixelShuffles of 2, each before a PReLU", checks.upsampler),
                PaperCheck("G ends with a convolution, without tanh", checks.linear_output),
                PaperCheck("LR is in [0, 1] and HR in [-1, 1]", checks.ranges),
                PaperCheck("LR is HR reduced by an antialiased bicubic filter", checks.reduced),
                PaperCheck("D halves the side four times, by strides", checks.strides),
                PaperCheck("BatchNorm in D but after its first convolution", checks.critic_norms),
                PaperCheck("LeakyReLU with slope 0.2 in D", checks.critic_activations),
                PaperCheck("VGG is frozen, and belongs to no checkpoint", checks.frozen_features),
                PaperCheck("VGG's features are those of φ₅,₄ × 1/12.75", checks.scaled_features),
                PaperCheck("G's loss is the features' MSE + 1e-3 · −log D", checks.loss),
                PaperCheck("Adam with learning rate 1e-4 and beta1 0.9", checks.adam),
                PaperCheck("learning rates fall to a tenth after half of it", checks.schedule),
            ),
        )
    ]
