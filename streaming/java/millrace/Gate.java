package millrace;

import java.util.Arrays;

/**
 * When a main record may pass. Until a job has caught up with what was there at its deployment, a record waits for all
 * main records of other partitions and all side records from before its event time, and for every announcement; from
 * then on nothing waits.
 */
final class Gate {
  static final int MAIN = 0;
  static final int SIDE = 1;
  static final int CONTROL = 2;

  private final long[] marks = new long[3];
  private final boolean[] idle = new boolean[3];

  /** `main`, `side`, `control`: whether to wait for them; `live`: the job had caught up before it was restored. */
  Gate(boolean main, boolean side, boolean control, boolean live) {
    Arrays.fill(marks, Frames.LIVE);
    boolean[] waits = {main, side, control};
    for (int input = 0; input < marks.length; input++) {
      if (waits[input] && !live) {
        marks[input] = Frames.NONE;
      }
    }
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
    return marks[MAIN] >= Frames.LIVE && marks[SIDE] >= Frames.LIVE && marks[CONTROL] >= Frames.LIVE;
  }

  /**
   * Whether a main record that counts by this time may pass; one without passes when announcements have been read. What
   * is told of one whose own time is earlier, `isLate`, may be told those behind it that count by the same time.
   */
  boolean passes(long reach, boolean isLate) {
    return reached(CONTROL, Frames.LIVE)
        && (reach == Frames.NONE || reached(MAIN, reach) && reached(SIDE, isLate ? reach : reach - 1));
  }

  private boolean reached(int input, long at) {
    return idle[input] || marks[input] >= at;
  }
}
