// Reads requests from stdin, one JSON object a line, and answers each with one line on stdout.
//
// A request names its `peer`, which is a file of `drivers/`, and what to `do`, which is one of its functions. The answer is
// `{"ok": ...}` with what the function returned, or `{"error": ...}` with what the peer said. README.md beside this folder
// has the requests.

import { createInterface } from 'node:readline'

// What a peer prints must not be taken for an answer.
const answers = process.stdout.write.bind(process.stdout)
process.stdout.write = process.stderr.write.bind(process.stderr)

async function answer(request) {
    try {
        const driver = await import(`./drivers/${request.peer}.mjs`)
        return { ok: await driver[request.do](request) }
    } catch (error) {
        // Some peers throw texts. The name of an error is one word, and is left out if it says nothing.
        return { error: error instanceof Error ? `${error.name} ${error.message}`.replace(/^Error /, '') : String(error) }
    }
}

for await (const line of createInterface({ input: process.stdin })) {
    answers(JSON.stringify(await answer(JSON.parse(line))) + '\n')
}
process.exit(0)
