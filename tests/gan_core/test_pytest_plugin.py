"""The fixture for people who write variants, in a test suite of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["pytester"]

MARKED = """
import pytest

@pytest.mark.ganforge_variant({names})
def test_conforms(ganforge_check):
    assert callable(ganforge_check)
"""


def collected(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    pytester.makepyfile(source)
    options = ("-p", "no:cacheprovider", "--collect-only", "-q", "--strict-markers")
    # in process, pytest would forget what was imported meanwhile; torch can't be imported twice
    return pytester.runpytest_subprocess(*options)


def test_every_check_is_a_test_of_its_own(pytester: pytest.Pytester) -> None:
    result = collected(pytester, MARKED.format(names="'vanilla'"))
    result.stdout.fnmatch_lines(
        ["*vanilla: resumed after any step*", "*vanilla: paper: D has no BatchNorm*"]
    )


def test_a_marker_may_name_several_variants(pytester: pytest.Pytester) -> None:
    result = collected(pytester, MARKED.format(names="'vanilla', 'dcgan'"))
    result.stdout.fnmatch_lines(["*vanilla: paper*", "*dcgan: paper*"])


def test_without_a_marker_every_variant_is_checked(pytester: pytest.Pytester) -> None:
    result = collected(pytester, "def test_conforms(ganforge_check): ganforge_check()")
    result.stdout.fnmatch_lines(["*dcgan: paper*", "*vanilla: paper*"])


def test_a_variant_that_is_not_there_is_an_error(pytester: pytest.Pytester) -> None:
    result = collected(pytester, MARKED.format(names="'vanila'"))
    result.stdout.fnmatch_lines(["*no variant is called 'vanila' (did you mean 'vanilla'?)*"])


def test_a_check_that_fails_fails_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from gan_vanilla.trainer import VanillaConfig

        VanillaConfig.model_fields["z_dim"].description = None

        @pytest.mark.ganforge_variant("vanilla")
        def test_conforms(ganforge_check):
            ganforge_check()
        """
    )
    options = ("-p", "no:cacheprovider", "-k", "config and field")
    result = pytester.runpytest_subprocess(*options)  # for what it changes must not stay changed
    result.stdout.fnmatch_lines(["*config fields without a docstring: z_dim*"])
    result.assert_outcomes(failed=1, deselected=13)
