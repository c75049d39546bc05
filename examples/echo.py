#!/usr/bin/env python3
"""An application of a running agent: it invites peers, and answers each text with the same text.

    python3 examples/echo.py state/api.sock

It prints the invitation, and what became of each answer. It ends when the agent ends. docs/api.md describes the API."""

import http.client, json, socket, sys, threading, time

TEXT = "https://didcomm.org/basicmessage/2.0/message"


class Agent(http.client.HTTPConnection):
    """A connection to the agent's API, on its Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])


def ask(method, path, body=None):
    """Makes a request, and returns the status and the answer."""
    agent = Agent("localhost")
    agent.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    response = agent.getresponse()
    return response.status, json.load(response)


def messages():
    """Yields the unread messages, then each that arrives."""
    agent = Agent("localhost")
    agent.request("GET", "/v1/events")
    for line in agent.getresponse():
        name, _, value = line.partition(b": ")
        if name == b"event":
            event = value.strip()
        elif name == b"data" and event == b"message":
            yield json.loads(value)


def report(id):
    """Waits until a message is sent or given up, and prints its state."""
    while (message := ask("GET", "/v1/messages/" + id)[1])["state"] == "waiting":
        time.sleep(0.2)
    print(message["state"], id, message["problem"] or "", flush=True)


print(ask("POST", "/v1/invitations", {"goal": "echo", "multi_use": True})[1]["url"], flush=True)
for received in messages():
    message = received["message"]
    if received["type"] == TEXT and received["sender"]:
        # With an id made from that of the message, the answer is sent once, even if the message comes again.
        answer = {"id": "echo-" + received["id"], "to": message["from"], "from": received["recipient"], "type": TEXT,
                  "body": {"content": message["body"]["content"]}, "headers": {"thid": received["thread"]}}
        status, result = ask("POST", "/v1/messages", answer)
        if status == 503:  # The agent cannot take it now: do not acknowledge, so that the message comes again.
            sys.exit(result["error"]["message"])
        if status == 202:
            threading.Thread(target=report, args=[answer["id"]], daemon=True).start()
        else:
            print("refused", answer["id"], result["error"]["message"], flush=True)
    ask("POST", "/v1/inbox/acknowledge", {"ids": [received["id"]]})
