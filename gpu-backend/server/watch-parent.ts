/**
 * A backend started by another process must not outlive it: kill -9 of the parent closes the pipe that is our stdin (or the
 * IPC channel), and where stdin is something else the parent's id is polled.
 *
 * @param parentPid id to poll, or `null` when the parent is only known by its pipe
 * @param onGone called once
 */
export function watchParent(parentPid: number | null, onGone: (reason: string) => void): void {
  let told = false;
  const gone = (reason: string) => {
    if (told) return;
    told = true;
    onGone(reason);
  };
  if (process.channel !== undefined) process.once('disconnect', () => gone('the IPC channel to the parent closed'));
  if (parentPid === null) return;
  const timer = setInterval(() => {
    // A dead parent's children are handed to another process, so comparing ids sees it even if the number is used again.
    if (process.ppid !== parentPid && !isAlive(parentPid)) gone(`parent process ${parentPid} is gone`);
  }, 500);
  timer.unref();
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
