"""Two processes of which one works at any time, so that both see the same seconds of a machine whose speed changes.

Each says on stderr when it begins a point, as "point N of M: batch B"; other lines are passed on. They come to every point
one after the other, and there SIGSTOP and SIGCONT give each its slices. Where one has done its point, the other's rest is not
shared. It does not know what the processes do.
"""
import re, signal, subprocess, sys, tempfile, threading, time

POINT_BEGINS = re.compile(r"\bpoint \d+ of \d+: batch ")


class Side:
    """A process that works only while it is told to."""

    def __init__(self, command):
        self.command, self.out, self.begun, self.process = command, tempfile.TemporaryFile(), 0, None

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=self.out, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        self.rest()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            if POINT_BEGINS.search(line):
                self.begun += 1
            else:
                sys.stderr.write(line)

    def go(self):
        self.process.send_signal(signal.SIGCONT)

    def rest(self):
        self.process.send_signal(signal.SIGSTOP)

    def is_over(self):
        return self.process.poll() is not None

    def result(self, points):
        self.go()
        returned = self.process.wait()
        self.reader.join()
        self.out.seek(0)
        said = self.out.read()
        if returned != 0:
            raise subprocess.CalledProcessError(returned, self.command, said)
        if self.begun != points:
            sys.exit(f"{self.command[0]} named {self.begun} of {points} points on stderr: the two sides did not take turns")
        return said


def take_turns(commands, seconds, points):
    """What each command prints.

    Raises CalledProcessError for the first that fails, and ends the program where one does not name its points; the other is
    killed then."""
    sides = [Side(command) for command in commands]
    try:
        for side in sides:
            side.start()
        for point in range(1, points + 1):
            bring_to(point, sides, points)
            if share(point, sides, seconds) < 2:
                print(f"point {point} was over before both sides had two slices: more repeats, or a shorter --slice", file=sys.stderr)
        # Who is over first: if it failed, the other need not go on.
        said = {side: side.result(points) for side in sorted(sides, key=Side.is_over, reverse=True)}
        return [said[side] for side in sides]
    finally:
        # A second Ctrl-C must not come between.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        stop_all([side.process for side in sides if side.process])
        for number, handler in handlers.items():
            signal.signal(number, handler)


def bring_to(point, sides, points):
    for side in sides:
        side.go()
        while side.begun < point:
            for one in sides:
                if one.is_over() and one.begun < points:
                    one.result(points)  # says why
            time.sleep(0.002)
        side.rest()


def share(point, sides, seconds):
    """Gives slices until one side has done the point; returns how many each had."""
    slices = 0
    while not any(side.is_over() or side.begun > point for side in sides):
        for side in sides:
            side.go()
            time.sleep(seconds)
            side.rest()
        slices += 1
    return slices


def stop_all(processes):
    for process in processes:
        process.kill()  # one that was stopped would stay for ever
    for process in processes:
        process.wait()
