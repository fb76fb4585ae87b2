"""A tiny finished run and its export, made once for all tests that only read them."""

import shutil

import pytest


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished run up to generate, with an adapter: its directory. Only `.partial` in it may be written to."""
    from tiny_model import make_model, publish_adapter, publish_model, publish_results

    output = tmp_path_factory.mktemp("runs") / "tiny-ends"
    publish_model(output, "pretrain", make_model(0, scale=0.1))
    publish_adapter(output, base=0)
    publish_results(output, ("pretrain", "finetune"))
    return output


@pytest.fixture(scope="session")
def exported(tiny_run):
    """The exported directory and what was measured."""
    from tiny_model import export_context

    from pipeline import export

    context = export_context(tiny_run)
    measured = export.run(context)
    return shutil.copytree(context.out, tiny_run.parent / "exported"), measured
