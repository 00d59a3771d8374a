"""Finds the application a specification names; pure Python, knows nothing of the server.

Used by `_bootstrap.py` in a worker, before the first request, and by `_hooks.py` for the module of
`--hooks`; shared by all runtimes.

Grammar of a specification:

    module                    attribute `application`, then `app`
    module:attribute          dotted attributes allowed: `shop.wsgi:site.application`
    module:factory()          the factory is called once; arguments may be Python literals:
                              `shop:create_app("production", debug=False)`
    path/to/file.py           likewise with a file instead of a module: what contains a `/`, ends in
    path/to/file.py:attribute `.py`, or is a file that ends in `.wsgi`. Its folder becomes
                              `sys.path[0]`, as for `python path/to/file.py`, but it is not
                              `__main__`.

Invariant: whatever goes wrong ends in `ApplicationError` whose text is meant for the log: one line
of what failed, the application's own traceback if its code ran, and a `hint:` line.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback

ATTRIBUTES_DEFAULT = ("application", "app")


class ApplicationError(Exception):
    """The application cannot be loaded; `str()` of it is the whole text for the log."""

    def __init__(self, what, hint, traceback_text=""):
        text = "ringhorn: " + what
        if traceback_text:
            text = traceback_text.rstrip("\n") + "\n" + text
        if hint:
            text += "\nhint: " + hint
        super().__init__(text)
        self.what, self.hint, self.traceback_text = what, hint, traceback_text


def load_application(specification):
    """Returns the callable that `specification` names; raises ApplicationError."""
    source, attribute = split_specification(specification)
    module = load_module(source)
    if attribute is None:
        application = find_default(module, source)
    else:
        application = evaluate(module, source, attribute)
    if not callable(application):
        raise ApplicationError(
            "%s is not callable: it is a %s" % (specification, type(application).__name__),
            "name a WSGI callable `application(environ, start_response)`, or call its factory: "
            "`%s:factory()`" % source,
        )
    return application


def load_module(source):
    """Imports a module by its dotted name, or a file by its path."""
    return import_file(source) if is_file(source) else import_module(source)


def split_specification(specification):
    """`module:attribute` -> (module, attribute or None)."""
    source, colon, attribute = specification.partition(":")
    source, attribute = source.strip(), attribute.strip()
    if not source or (colon and not attribute):
        raise ApplicationError(
            "%r does not name an application" % specification,
            "write `module:callable`, `module:factory()`, `module`, `file.py` or `file.py:name`",
        )
    return source, attribute if colon else None


def is_file(source):
    # `mysite.wsgi` is Django's usual module name: it is a file only where there is one.
    return (
        "/" in source
        or source.endswith(".py")
        or (source.endswith(".wsgi") and os.path.isfile(source))
    )


def import_module(name):
    """Imports a module by its dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only "the module that was asked for is not there" is ours to explain; a missing module
        # further down is the application's error and keeps its traceback.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ApplicationError(
                "no module named %r" % error.name, search_hint(name), own_traceback(error)
            ) from None
        raise failed_import(name, error) from None
    except BaseException as error:
        # SystemExit and KeyboardInterrupt too: an import must not end the worker silently.
        raise failed_import(name, error) from None


def search_hint(name):
    hint = "looked in %s" % os.pathsep.join(entry or "." for entry in sys.path)
    if os.path.exists(name.replace(".", "/") + ".py"):
        return hint + "; the file is there, so a package on its way may lack an __init__.py"
    return hint + "; --chdir or --pythonpath adds a folder, --python VENV picks the virtualenv"


def import_file(path):
    """Executes a file as a module named after it, importable by that name from then on."""
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise ApplicationError("there is no file %s" % path, "relative names start at --chdir")
    folder, filename = os.path.split(path)
    name = os.path.splitext(filename)[0]
    if not name.isidentifier():
        # Such a file cannot be imported by name; `multiprocessing` and pickle then cannot find it
        # either, which no name of ours would change.
        name = "_ringhorn_application"
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
        if found is not None and os.path.abspath(found) == path:
            return sys.modules[name]
        raise ApplicationError(
            "%s would hide the module %r, which is loaded from %s"
            % (path, name, found or "the interpreter"),
            "rename the file",
        )
    loader = importlib.machinery.SourceFileLoader(name, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        raise failed_import(path, error) from None
    return module


def find_default(module, source):
    for attribute in ATTRIBUTES_DEFAULT:
        if hasattr(module, attribute):
            return getattr(module, attribute)
    raise ApplicationError(
        "%s has neither `application` nor `app`" % source, attribute_hint(module, source)
    )


def evaluate(module, source, expression):
    """`site.application` or `create_app("x", debug=False)` on `module`."""
    if all(name.isidentifier() for name in expression.split(".")):
        return follow(module, source, expression.split("."))
    # Not at the top: it would stay in every worker, and most applications are plain names.
    import ast

    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError:
        tree = None
    arguments = None
    if isinstance(tree, ast.Call):
        arguments, tree = tree, tree.func
    names = dotted_names(tree)
    if names is None:
        raise ApplicationError(
            "%r is neither an attribute nor a factory call" % expression,
            "write `%s:callable` or `%s:factory()`, arguments as Python literals"
            % (source, source),
        )
    found = follow(module, source, names)
    return found if arguments is None else call_factory(found, arguments, source, expression)


def follow(module, source, names):
    """The attribute of an attribute of... `module`."""
    found = module
    for depth, name in enumerate(names):
        try:
            found = getattr(found, name)
        except AttributeError:
            missing = ".".join(names[: depth + 1])
            raise ApplicationError(
                "%s has no attribute %r" % (source, missing), attribute_hint(module, source)
            ) from None
    return found


def dotted_names(tree):
    import ast

    names = []
    while isinstance(tree, ast.Attribute):
        names.append(tree.attr)
        tree = tree.value
    if not isinstance(tree, ast.Name):
        return None
    names.append(tree.id)
    return names[::-1]


def call_factory(factory, call, source, expression):
    import ast

    try:
        positional = [ast.literal_eval(argument) for argument in call.args]
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        if None in keywords:
            raise ValueError
    except ValueError:
        raise ApplicationError(
            "the arguments of %s:%s are not literals" % (source, expression),
            "strings, numbers, tuples, lists, dicts, True, False and None are allowed",
        ) from None
    if not callable(factory):
        raise ApplicationError(
            "%s:%s cannot be called: it is a %s" % (source, expression, type(factory).__name__),
            "drop the parentheses if it is the application itself",
        )
    try:
        return factory(*positional, **keywords)
    except BaseException as error:
        raise ApplicationError(
            "the factory %s:%s raised %s" % (source, expression, type(error).__name__),
            "",
            own_traceback(error),
        ) from None


def attribute_hint(module, source):
    """Names in `module` that look like applications."""
    looks = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and (
            "app" in name.lower() or type(value).__name__ in ("Flask", "WSGIHandler", "API", "App")
        )
    ]
    if looks:
        return "it does have " + ", ".join("`%s:%s`" % (source, name) for name in sorted(looks)[:8])
    return "name the callable: `%s:callable`, or `%s:factory()` for a factory" % (source, source)


def failed_import(name, error):
    return ApplicationError(
        "%s cannot be imported: %s" % (name, type(error).__name__), "", own_traceback(error)
    )


def own_traceback(error):
    """The whole traceback from the application's first frame on, without those of this file."""
    tb = error.__traceback__
    while tb is not None and is_machinery(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb))


def is_machinery(filename):
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")
