/** What the kernel says of processes (Linux). */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** The workerd that process `parent` has started. @throws Error when there is none */
export function workerdOf(parent: number): number {
  const rows = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,comm='], { encoding: 'utf8' }).split('\n');
  for (const row of rows) {
    const [pid, of, command] = row.trim().split(/\s+/);
    if (of === String(parent) && command === 'workerd') return Number(pid);
  }
  throw new Error(`no workerd among the children of process ${parent}`);
}

/** Resident memory now and at its highest, bytes. */
export function memoryOf(pid: number): { rssBytes: number; peakRssBytes: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
  return { rssBytes: field('VmRSS'), peakRssBytes: field('VmHWM') };
}

/** CPU seconds of all threads since the start. */
export function cpuSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
