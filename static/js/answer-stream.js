// Reads an answer of the API as it comes: server-sent events over fetch, since EventSource cannot post.

/** An answer that was refused or broke off; the message is for people. */
export class Refused extends Error {}

async function refusal(answer) {
  const body = await answer.json().catch(() => null);
  return new Refused(body?.error?.message ?? `The server answered ${answer.status}.`);
}

/** The data of each event of a body. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length > 0) yield data.join("\n");
    }
  }
}

/** Asks and gives each chunk; ends after the last one, throws [`Refused`] for an error of the server. */
export async function* ask(path, request, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer.");
  }
  if (!answer.ok) throw await refusal(answer);
  let complete = false;
  try {
    for await (const data of events(answer.body)) {
      if (data === "[DONE]") {
        complete = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
    throw new Refused("The connection broke off.");
  }
  if (!complete) throw new Refused("The answer broke off before its end.");
}
