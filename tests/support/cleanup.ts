/** Ends what a test starts, even if it fails: an open client would keep the process alive. */

/** Ends resources in reverse order at the end of the block. */
export class Cleanup implements AsyncDisposable {
  readonly #ends: (() => unknown)[] = [];

  /** Adds a resource and the function that ends it. It may already have ended. */
  of<T>(thing: T, end: (thing: T) => unknown): T {
    this.#ends.push(() => end(thing));
    return thing;
  }

  /** Adds stores. */
  stores<T extends { close(): Promise<void> }>(...stores: T[]): T[] {
    return stores.map((store) => this.of(store, () => store.close()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#ends.reverse()) {
      try {
        await end();
      } catch {
        // It has already ended.
      }
    }
  }
}
