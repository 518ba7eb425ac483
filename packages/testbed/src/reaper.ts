import { spawn, type ChildProcess } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Writable } from 'node:stream'

/*
 * Everything ends with this process, however it ends. A shell outside of our process group holds the read
 * end of a pipe; when we exit, crash, get a signal or are killed with SIGKILL, the pipe closes, and the shell
 * ends what was registered and removes the temporary folder. Being a shell, it starts in a millisecond and
 * occupies almost nothing.
 *
 * A paused process (SIGSTOP) is continued first, since it could not act on anything but SIGKILL. PostgreSQL
 * is asked to shut down at once (SIGQUIT) before it is killed: it alone can give back its shared memory.
 */
const script = `
trap '' INT TERM HUP QUIT PIPE
dir=$1 hard=' ' soft=' '
without() { out=' '; for one in $1; do [ "$one" = "$2" ] || out="$out$one "; done; echo "$out"; }
tree() { for child in $(cat /proc/"$1"/task/*/children 2>/dev/null || pgrep -P "$1" 2>/dev/null); do tree "$child"; done; echo "$1"; }
gone() { case $(cat /proc/"$1"/stat 2>/dev/null) in *') Z '*) return 0 ;; esac; ! kill -0 "$1" 2>/dev/null; }
while read -r verb pid; do
  case $verb in
    hard) hard="$hard$pid " ;;
    soft) soft="$soft$pid " ;;
    forget) hard="$(without "$hard" "$pid") " soft="$(without "$soft" "$pid") " ;;
    end) break ;;
  esac
done
all=' '
for pid in $hard; do all="$all$(tree "$pid") "; done
[ "$all" = ' ' ] || kill -KILL $all 2>/dev/null
all=' '
for pid in $soft; do all="$all$(tree "$pid") "; done
if [ "$all" != ' ' ]; then
  kill -CONT $all 2>/dev/null
  kill -QUIT $soft 2>/dev/null
  tries=0
  for pid in $soft; do
    while ! gone "$pid" && [ $tries -lt 200 ]; do sleep 0.01; tries=$((tries + 1)); done
  done
  kill -KILL $all 2>/dev/null
fi
case $dir in */flotilla-*)
  tries=0
  while [ -e "$dir" ] && [ $tries -lt 100 ]; do rm -rf "$dir" 2>/dev/null || sleep 0.02; tries=$((tries + 1)); done ;;
esac
`

/** How a process is to be ended when we are gone: `soft` gets SIGQUIT and two seconds before SIGKILL. */
export type Ending = 'hard' | 'soft'

let root: string | undefined
let reaper: ChildProcess | undefined
const watched = new Set<number>()

/** A new folder below this process's own temporary folder; removed with it. */
export function temporaryFolder(name: string): string {
  const folder = mkdtempSync(join(ensureRoot(), `${name}-`))
  // Others may pass through: PostgreSQL runs as another user when we are root.
  chmodSync(folder, 0o711)
  return folder
}

/** A file name below the temporary folder that is the same for every caller of this process. */
export function sharedTemporaryFolder(name: string): string {
  const folder = join(ensureRoot(), name)
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  return folder
}

/** Registers a process that must not outlive this one. */
export function watch(pid: number, ending: Ending): void {
  ensureRoot()
  watched.add(pid)
  tell(`${ending} ${pid}\n`)
}

/** Tells the reaper that a process has ended, so that a later owner of its number is safe. */
export function forget(pid: number): void {
  if (watched.delete(pid)) tell(`forget ${pid}\n`)
}

function ensureRoot(): string {
  if (root !== undefined) return root
  root = mkdtempSync(join(tmpdir(), 'flotilla-'))
  chmodSync(root, 0o711)
  reaper = spawn('/bin/sh', ['-c', script, 'flotilla-reaper', root], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore']
  })
  reaper.unref()
  const pipe = reaper.stdin as Writable & { unref?: () => void }
  pipe.unref?.()
  // A reaper that somebody killed must not take the tests with it.
  pipe.on('error', () => {})
  process.once('exit', finish)
  return root
}

function tell(line: string): void {
  reaper?.stdin?.write(line)
}

/** At exit: nothing may be left by the time that whoever waits for this process goes on. */
function finish(): void {
  if (root === undefined) return
  if (watched.size === 0) {
    rmSync(root, { recursive: true, force: true })
    return
  }
  // Small writes to a pipe happen at once, so this one works in an exit handler.
  tell('end\n')
  const nap = new Int32Array(new SharedArrayBuffer(4))
  for (let tries = 0; tries < 1_000 && existsSync(root); tries += 1) Atomics.wait(nap, 0, 0, 5)
}
