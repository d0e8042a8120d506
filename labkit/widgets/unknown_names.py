"""A sentence before the traceback where a cell uses a name that no cell has defined yet."""

from types import TracebackType

from IPython import InteractiveShell, get_ipython

from labkit.terminal import wrapped


def explain_unknown_names() -> None:
    """Have IPython say which cells to run where a cell uses a name that it does not know; elsewhere do nothing."""
    shell = get_ipython()
    if shell is not None and not shell.custom_exceptions:  # a handler of the reader's own stays
        shell.set_custom_exc((NameError,), _explain_unknown_name)


def _explain_unknown_name(
    shell: InteractiveShell, kind: type, error: NameError, trace: TracebackType, tb_offset: int | None = None
) -> None:
    """Print the sentence, unless the name stands in a library or is a local one without a value; then the error."""
    last = trace
    while last.tb_next is not None:
        last = last.tb_next
    if kind is NameError and error.name and last.tb_frame.f_globals is shell.user_ns:
        sentence = (
            f"{error.name} is not defined yet: unless you mistyped a name of your own, run the cells above this one "
            "first (JupyterLab: Run > Run All Above Selected Cell)."
        )
        print(wrapped(sentence))
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
