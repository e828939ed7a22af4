"""BigGAN: class-conditional images from a hierarchical latent (Brock et al. 2019)."""

from gan_core import PaperCheck, Variant, hookimpl

__all__ = ["ganforge_variants"]


@hookimpl
def ganforge_variants() -> list[Variant]:
    """The variant ``biggan``."""
    from gan_core.checks import hinge, projection, shortcuts, spectral_norm_rests

    from . import checks
    from .trainer import BigGANConfig, build, served

    return [
        Variant(
            name="biggan",
            paper="arXiv:1809.11096",
            config=BigGANConfig,
            build=build,
            served=served,
            task="class-conditional",
            tiny={"resolution_px": 16, "width": 8, "z_dim": 12, "shared_dim": 8},
            paper_checks=(
                PaperCheck("spectral norm on every layer, with epsilon 1e-6", checks.spectral_norm),
                PaperCheck("spectral norm rests in evaluation", spectral_norm_rests),
                PaperCheck("hinge loss", hinge),
                PaperCheck("attention starts as the identity", checks.attention_starts_off),
                PaperCheck("a norm's gain is 1 + a projection of its condition", checks.gain),
                PaperCheck("one class embedding is shared by all of G", checks.shared_embedding),
                PaperCheck("every block of G gets a chunk of z of its own", checks.chunks),
                PaperCheck("D projects its features on the class", projection),
                PaperCheck("no activation overwrites what a shortcut reads", shortcuts),
                PaperCheck("weights start orthogonal", checks.initial_weights),
                PaperCheck(
                    "orthogonal regularisation sees different rows alone, at 1e-4",
                    checks.regularisation,
                ),
                PaperCheck("Adam with betas 0 and 0.999, epsilon 1e-6", checks.adam),
                PaperCheck("G learns at 5e-5, D at 2e-4", checks.learning_rates),
                PaperCheck("two D steps per G step", checks.two_to_one),
                PaperCheck("a moving average of G is served", checks.average),
                PaperCheck("standing statistics aren't the running ones", checks.standing),
                PaperCheck("standing statistics leave chance alone", checks.standing_repeats),
                PaperCheck("truncation draws z again", checks.truncation),
            ),
        )
    ]
