"""The reward of quickstart_grpo.yaml: what an answer is worth, from 0 to 1."""

import ast

from pipeline.data.functions import accepted_text, tree_of_function


def uses_its_parameters(completion: str, prompt: str, header: str) -> float:
    """The share of the function's parameters that its body reads, where it is Python; 1 without parameters, 0 else.

    `self` and `cls` count as any other. That a body parses is not enough: `pass` does.
    """
    text = accepted_text(header, completion)
    if text is None:
        return 0.0
    function = next(
        node
        for node in ast.walk(tree_of_function(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    names += [each.arg for each in (given.vararg, given.kwarg) if each]
    read = {
        node.id for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Name)
    }
    return sum(name in read for name in names) / len(names) if names else 1.0
