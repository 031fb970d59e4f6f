"""Whether a Python source can be a grader, as far as reading it tells. Runs nothing."""

import ast
import warnings

MAX_SOURCE_BYTES = 256 * 1024

_WISH = "Define it at the top level, as 'def grade(sample, item): ...', and return a number."


class SourceError(ValueError):
    """The source cannot be a grader. The message is a sentence that says what to change."""


def check(source: str) -> None:
    """Refuse a source that does not compile or has no `grade` of two arguments. Raises `SourceError`."""
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise SourceError("The source holds half a character (a lone surrogate). Send whole characters.") from None
    if size > MAX_SOURCE_BYTES:
        raise SourceError(f"The source has {size} bytes; at most {MAX_SOURCE_BYTES} are allowed.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on the customer's code is not ours to print
            tree = ast.parse(source)
            compile(tree, "grader", "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f" (line {error.lineno})" if error.lineno else ""
        raise SourceError(f"The source is not Python: {error.msg}{where}. Correct it.") from None
    except ValueError as error:
        raise SourceError(f"The source is not Python: {error}. Correct it.") from None
    except (RecursionError, MemoryError):
        raise SourceError("The source is nested too deeply to be compiled. Write it flatter.") from None
    _has_grade(tree)


def _has_grade(tree: ast.Module) -> None:
    found = [node for statement in tree.body for node in _at_top(statement) if _binds(node)]
    if not found:
        raise SourceError(f"The source has no function 'grade'. {_WISH}")
    last = found[-1]
    if isinstance(last, ast.AsyncFunctionDef):
        raise SourceError(f"'grade' must not be async. {_WISH}")
    if isinstance(last, ast.ClassDef):
        raise SourceError(f"'grade' must be a function, not a class. {_WISH}")
    if isinstance(last, ast.FunctionDef) and not last.decorator_list and not _takes_two(last.args):
        raise SourceError(f"'grade' must take two arguments, the sample and the item. {_WISH}")


def _at_top(node: ast.AST) -> list[ast.AST]:
    """The statement and those under its `if`, `try`, `with` or loop: they too bind names of the module."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node]
    inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)]
    return [node, *(found for child in inner for found in _at_top(child))]


def _binds(node: ast.AST) -> bool:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name == "grade"
        case ast.Assign(targets=targets):
            return any(isinstance(target, ast.Name) and target.id == "grade" for target in targets)
        case ast.AnnAssign(target=ast.Name(id="grade"), value=value):
            return value is not None
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return any((alias.asname or alias.name) == "grade" for alias in names)
    return False


def _takes_two(arguments: ast.arguments) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args)
    needed = positional - len(arguments.defaults)
    keywords_needed = any(default is None for default in arguments.kw_defaults)
    return needed <= 2 and (positional >= 2 or arguments.vararg is not None) and not keywords_needed
