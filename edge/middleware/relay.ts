/**
 * Bodies that are written while they are made. A `ReadableStream` of ours hears of a client that hangs up only where the runtime notices that by itself;
 * where a write to the closed connection fails first, workerd neither calls `cancel` nor fires the request's signal (4 of 100 hang-ups measured), and
 * what makes the body goes on for nobody. The writer of an identity stream hears of both.
 */

/**
 * @param make sends the body's bytes; its end ends the body, its failure breaks it. `send` waits for the client and rejects when it is gone.
 * @param onGone the client is gone, or `make` has failed; once at most
 */
export function relay(
  make: (send: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
  onGone: () => void,
): ReadableStream<Uint8Array> {
  const { readable, writable } = new IdentityTransformStream();
  const writer = writable.getWriter();
  let told = false;
  const gone = () => {
    if (!told) onGone();
    told = true;
  };
  writer.closed.catch(gone);
  make((bytes) => writer.write(bytes))
    .then(
      () => writer.close(),
      (reason: unknown) => writer.abort(reason),
    )
    .catch(gone);
  return readable;
}

export type Watch = {
  /** Sees what passes. */
  see?: (chunk: Uint8Array) => void;
  /** Called once: true when all of it was sent and before the body ends, false when it broke or the client has gone. */
  atEnd: (isWhole: boolean) => Promise<void> | void;
};

/** The same body, watched. One that is given up gives up its source. */
export function passedOn(body: ReadableStream<Uint8Array>, { see, atEnd }: Watch): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  let isEnded = false;
  const end = (isWhole: boolean) => {
    if (isEnded) return;
    isEnded = true;
    return atEnd(isWhole);
  };
  return relay(
    async (send) => {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        see?.(value);
        if (value.byteLength > 0) await send(value);
      }
      await end(true);
    },
    () => {
      void end(false);
      reader.cancel().catch(() => {});
    },
  );
}
