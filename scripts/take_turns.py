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
        self.command, self.out, self.begun = command, tempfile.TemporaryFile(), 0
        self.process = subprocess.Popen(command, stdout=self.out, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        self.process.send_signal(signal.SIGSTOP)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            if POINT_BEGINS.search(line):
                self.begun += 1
            else:
                sys.stderr.write(line)

    def is_over(self):
        return self.process.poll() is not None

    def work(self, seconds):
        self.process.send_signal(signal.SIGCONT)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGSTOP)

    def work_until(self, point):
        self.process.send_signal(signal.SIGCONT)
        while self.begun < point and not self.is_over():
            time.sleep(0.002)
        self.process.send_signal(signal.SIGSTOP)

    def result(self, points):
        self.process.send_signal(signal.SIGCONT)
        returned = self.process.wait()
        self.reader.join()
        if returned != 0:
            raise subprocess.CalledProcessError(returned, self.command)
        if self.begun != points:
            sys.exit(f"{self.command[0]} named {self.begun} of {points} points on stderr: the two sides did not take turns")
        self.out.seek(0)
        return self.out.read()

    def kill(self):
        self.process.kill()  # one that was stopped would stay for ever
        self.process.wait()


def take_turns(commands, seconds, points):
    """What each command prints.

    Raises CalledProcessError for the first that fails, as soon as it has; the other is killed then."""
    sides = []
    try:
        for command in commands:
            sides.append(Side(command))
        for point in range(1, points + 1):
            for side in sides:
                side.work_until(point)
            while not any(side.is_over() or side.begun > point for side in sides):
                for side in sides:
                    side.work(seconds)
            for side in sides:
                if side.is_over() and side.process.returncode != 0:
                    side.result(points)
        return [side.result(points) for side in sides]
    finally:
        for side in sides:
            side.kill()
