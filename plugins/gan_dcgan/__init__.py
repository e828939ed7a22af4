"""DCGAN: the first convolutional GAN that trained reliably (Radford et al. 2015)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``dcgan``."""
    from . import checks
    from .trainer import DCGANConfig, build, served

    return [
        Variant(
            name="dcgan",
            paper="arXiv:1511.06434",
            config=DCGANConfig,
            build=build,
            served=served,
            tiny={"resolution_px": 16, "width": 8, "z_dim": 16, "batch_size": 8},
            paper_checks=(
                PaperCheck("no fully connected layer in either network", checks.no_linear),
                PaperCheck("no pooling in either network", checks.no_pooling),
                PaperCheck("BatchNorm after every layer but G's output", checks.generator_norms),
                PaperCheck("BatchNorm in D but for its input and output", checks.critic_norms),
                PaperCheck("ReLU in G with tanh at the end", checks.generator_activations),
                PaperCheck("LeakyReLU with slope 0.2 in D", checks.critic_activations),
                PaperCheck("weights start as N(0, 0.02)", checks.initial_weights),
                PaperCheck("Adam with learning rate 2e-4 and beta1 0.5", checks.adam),
                PaperCheck("z is uniform on [-1, 1]", checks.uniform_prior),
            ),
        )
    ]
