"""Reads requests from stdin, one JSON object a line, and answers each with one line on stdout.

A request names its `peer`, which is a module of `drivers`, and what to `do`, which is one of its functions. The answer is
`{"ok": ...}` with what the function returned, or `{"error": ...}` with what the peer said. README.md beside this folder has
the requests.
"""

import asyncio
import importlib
import inspect
import json
import sys
import warnings

warnings.simplefilter("ignore")


async def answer(request):
    try:
        function = getattr(importlib.import_module(f"drivers.{request['peer']}"), request["do"])
        result = function(request)
        return {"ok": await result if inspect.isawaitable(result) else result}
    # Whatever a peer throws is its answer.
    except BaseException as error:  # noqa: BLE001
        causes = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        return {"error": ": ".join(f"{type(cause).__name__} {cause}".strip() for cause in causes)}


async def main():
    # What a peer prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(await answer(json.loads(line))), file=answers, flush=True)


asyncio.run(main())
