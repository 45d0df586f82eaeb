/** The first lines of programs that tests run in a separate process. */

const at = (path: string) => JSON.stringify(new URL(path, import.meta.url));

export const imports = `
  import { memoryBackend } from ${at("../../src/memory.ts")};
  import { makeStore } from ${at("../../src/store/store.ts")};
`;
