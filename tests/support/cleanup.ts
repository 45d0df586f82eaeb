/** What a test begins and must end, also where it fails: an open client would keep the process. */

/** Ends things in the reverse order, once the block is left. */
export class Cleanup implements AsyncDisposable {
  readonly #ends: (() => unknown)[] = [];

  /** Takes a thing and how it ends; that it has ended already is no error. */
  of<T>(thing: T, end: (thing: T) => unknown): T {
    this.#ends.push(() => end(thing));
    return thing;
  }

  /** Takes stores. */
  stores<T extends { close(): Promise<void> }>(...stores: T[]): T[] {
    return stores.map((store) => this.of(store, () => store.close()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#ends.reverse()) {
      try {
        await end();
      } catch {
        // It has ended.
      }
    }
  }
}
