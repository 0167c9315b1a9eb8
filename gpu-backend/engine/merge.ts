/**
 * Items of several sources as they come. The first source starts alone; the others start once it has said that they may (what they
 * share with it is cached by then) or has ended. A source that fails ends all of them.
 * @param start makes source `index`; source 0 calls `others` when the rest may start
 * @param stop tells all sources to end; called when the reader leaves or a source fails
 */
export async function* merge<T>(
  count: number,
  start: (index: number, others: () => void) => AsyncGenerator<T, void, undefined>,
  stop: () => void,
): AsyncGenerator<T, void, undefined> {
  let items: T[] = [];
  let running = 0;
  let failure: { readonly error: unknown } | null = null;
  let wake = () => {};
  const pump = async (index: number, others: () => void): Promise<void> => {
    running++;
    try {
      for await (const item of start(index, others)) {
        items.push(item);
        wake();
      }
    } catch (error) {
      failure ??= { error };
    } finally {
      others();
      running--;
      wake();
    }
  };
  const pumps: Promise<void>[] = [];
  let isOpen = true;
  let others = () => {
    others = () => {};
    for (let index = 1; isOpen && failure === null && index < count; index++) pumps.push(pump(index, () => {}));
  };
  pumps.push(pump(0, () => others()));
  try {
    for (;;) {
      const ready = items;
      items = [];
      yield* ready;
      if (failure !== null) throw (failure as { readonly error: unknown }).error;
      if (items.length > 0) continue;
      if (running === 0) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    isOpen = false;
    stop();
    await Promise.all(pumps);
  }
}
