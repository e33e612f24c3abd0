package millrace;

import java.util.Arrays;

/**
 * When a main record may pass. Until a job has caught up with what was there at its deployment, a record waits for all
 * side records from before its event time, and for every announcement; from then on nothing waits.
 */
final class Gate {
  static final int MAIN = 0;
  static final int SIDE = 1;
  static final int CONTROL = 2;

  private final long[] marks = new long[3];
  private final boolean[] idle = new boolean[3];

  /** `side`, `control`: whether to wait for them at all; `live`: the job had caught up before it was restored. */
  Gate(boolean side, boolean control, boolean live) {
    Arrays.fill(marks, Frames.NONE);
    marks[SIDE] = live || !side ? Frames.LIVE : Frames.NONE;
    marks[CONTROL] = live || !control ? Frames.LIVE : Frames.NONE;
  }

  void advance(int input, long mark) {
    marks[input] = Math.max(marks[input], mark);
  }

  /** An input whose partitions are all silent has nothing to wait for. */
  void idle(int input, boolean isIdle) {
    idle[input] = isIdle;
  }

  /** Whether nothing will ever wait again. */
  boolean live() {
    return marks[SIDE] >= Frames.LIVE && marks[CONTROL] >= Frames.LIVE;
  }

  /** Whether a main record of this event time may pass; one without passes when announcements have been read. */
  boolean passes(long at) {
    if (marks[CONTROL] < Frames.LIVE && !idle[CONTROL]) {
      return false;
    }
    return marks[SIDE] >= Frames.LIVE || idle[SIDE] || at == Frames.NONE || at - 1 <= marks[SIDE];
  }
}
