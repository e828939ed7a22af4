"""Progressive GAN: from 4 px upwards, one doubling at a time (Karras et al. 2018)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``progan``."""
    from gan_core.checks import no_norm_in_discriminator, one_to_one

    from . import checks
    from .trainer import ProGANConfig, build, served

    return [
        Variant(
            name="progan",
            paper="arXiv:1710.10196",
            config=ProGANConfig,
            build=build,
            served=served,
            # 4 px: 2 steps; 8 px: 2 that fade, 2 that don't; 16 px: 4 that fade, then all others
            tiny={
                "resolution_px": 16,
                "stabilise_kimg": 0.016,
                "fade_kimg": 0.016,
                "batch_size": 8,
                "batch_sizes": {16: 4},
                "lr_factors": {16: 2.0},
                "fmap_base": 32,
                "fmap_max": 8,
                "z_dim": 8,
            },
            paper_checks=(
                PaperCheck("weights start as N(0, 1)", checks.initial_weights),
                PaperCheck("weights are used times gain / sqrt(fan_in)", checks.equalised_rate),
                PaperCheck("pixel norm follows every hidden layer of G", checks.pixel_norms),
                PaperCheck("features of a pixel have a mean square of 1", checks.unit_mean_square),
                PaperCheck("no tanh: G's last layer is linear", checks.linear_output),
                PaperCheck("LeakyReLU with slope 0.2 everywhere", checks.activations),
                PaperCheck("no normalisation in D", no_norm_in_discriminator),
                PaperCheck("D compares groups of 4 at 4x4 px", checks.spread_at_four_px),
                PaperCheck("the spread in a group is divided by N", checks.spread_over_n),
                PaperCheck("drift 0.001 and gradient penalty 10", checks.loss),
                PaperCheck("one D step per G step", one_to_one),
                PaperCheck("Adam with 1e-3, betas (0, 0.99), eps 1e-8", checks.adam),
                PaperCheck("nothing fades before 4 px are stable", checks.stable_first),
                PaperCheck("every fade goes from 0 to 1", checks.fades_upwards),
                PaperCheck("at alpha 0 all is as at the level before", checks.starts_as_before),
                PaperCheck("at alpha 1 nothing of the level before is left", checks.ends_alone),
                PaperCheck("G, D and the reals have the same alpha", checks.one_alpha),
                PaperCheck("optimisers start afresh at a new level", checks.fresh_optimizers),
            ),
        )
    ]
