/** Measures in short slices, in random order in every round: the machine's noise hits all alike. */

export interface Task {
  name: string;
  /** Does the work once. */
  run(): Promise<unknown>;
}

export interface Quartiles {
  low: number;
  median: number;
  high: number;
}

export interface Measured {
  name: string;
  /** Time of one unit of work, in µs, of each round. */
  times: number[];
}

export interface Effort {
  rounds: number;
  /** After how long no further round begins, in ms. */
  limit: number;
  /** How long one slice should take, in ms. */
  slice: number;
  /** For how many slices each task runs before: bots run for days, so the first runs do not count. */
  warmUp: number;
}

/**
 * Runs the tasks.
 *
 * @param count how many units of work one run is.
 */
export async function measure(tasks: Task[], count: number, effort: Effort): Promise<Measured[]> {
  const slices = new Map<string, number>();
  for (const task of tasks) {
    let spent = 0, runs = 0;
    for (; spent < effort.slice * effort.warmUp; runs++) spent += await timed(task, 1);
    slices.set(task.name, Math.max(1, Math.round(effort.slice / (spent / runs))));
  }
  const measured = tasks.map(({ name }) => ({ name, times: [] as number[] }));
  const end = performance.now() + effort.limit;
  for (let round = 0; round < effort.rounds; round++) {
    if (round > 0 && performance.now() > end) break;
    for (const i of shuffled(tasks.length)) {
      const task = tasks[i]!;
      const runs = slices.get(task.name)!;
      measured[i]!.times.push(1000 * await timed(task, runs) / runs / count);
    }
  }
  return measured;
}

async function timed(task: Task, runs: number): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < runs; i++) await task.run();
  return performance.now() - start;
}

function shuffled(length: number): number[] {
  const order = Array.from({ length }, (_, i) => i);
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

export interface Result {
  store: string;
  /** Time of a unit of work, in µs. */
  time: Quartiles;
  /** How many times as fast as others in the same round, by their names. */
  speedup: Record<string, Quartiles>;
}

/** Compares each with the references, of which it need not be one. */
export function compare(measured: Measured[], references: string[]): Result[] {
  const others = measured.filter(({ name }) => references.includes(name));
  return measured.map((one) => ({
    store: one.name,
    time: quartiles(one.times),
    speedup: Object.fromEntries(others.map((other) => [other.name, speedup(one, other)])),
  }));
}

/** How many times as fast as the other, from the ratio of each round. */
function speedup(of: Measured, other: Measured): Quartiles {
  return quartiles(of.times.map((time, round) => other.times[round]! / time));
}

function quartiles(values: number[]): Quartiles {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => {
    const place = (sorted.length - 1) * share;
    const [low, high] = [sorted[Math.floor(place)]!, sorted[Math.ceil(place)]!];
    return low + (high - low) * (place - Math.floor(place));
  };
  return { low: at(0.25), median: at(0.5), high: at(0.75) };
}
