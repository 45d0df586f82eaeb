/** Measures in short slices, in random order in each round, so that noise affects all tasks. */

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
  /** Time of one unit of work in each round, in µs. */
  times: number[];
}

export interface Effort {
  rounds: number;
  /** Time after which no new round begins, in ms. */
  limit: number;
  /** Intended time of one slice, in ms. */
  slice: number;
  /** Slices of each task that run before the first round. Bots run for days, with warm code. */
  warmUp: number;
}

/**
 * Runs the tasks.
 *
 * @param count units of work in one run.
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

/** The numbers from 0 to `length` - 1 in random order. */
export function shuffled(length: number): number[] {
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
  /** Speed relative to other tasks in the same round, by their names: 2 is twice as fast. */
  speedup: Record<string, Quartiles>;
}

/** Compares each task with the references. */
export function compare(measured: Measured[], references: string[]): Result[] {
  const others = measured.filter(({ name }) => references.includes(name));
  return measured.map((one) => ({
    store: one.name,
    time: quartiles(one.times),
    speedup: Object.fromEntries(others.map((other) => [other.name, speedup(one, other)])),
  }));
}

/** The speed relative to another task, from the ratio in each round. */
export function speedup(of: Measured, other: Measured): Quartiles {
  return quartiles(of.times.map((time, round) => other.times[round]! / time));
}

export function quartiles(values: number[]): Quartiles {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => {
    const place = (sorted.length - 1) * share;
    const [low, high] = [sorted[Math.floor(place)]!, sorted[Math.ceil(place)]!];
    return low + (high - low) * (place - Math.floor(place));
  };
  return { low: at(0.25), median: at(0.5), high: at(0.75) };
}
