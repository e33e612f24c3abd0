package millrace;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.runtime.state.KeyedStateBackend;

/**
 * The order in which a stage takes its records. Once the job has caught up, that of their arrival. Before, main records
 * wait at the gate; those of several partitions leave it by event time, as if they came from one, since partitions are
 * read at different speeds. Where the times of a partition go back, those count that came before, and then the places
 * in it. A side record counts for later main records only, and waits for the first of them: keys have room for few that
 * wait.
 */
final class Order {
  private final Gate gate;
  private final Hold main;
  private final Hold side;
  private final boolean later;
  private final Hold.Taker next;

  /** The newest event time of each partition; null where main records come from another stage. */
  private final Map<Integer, Long> reached;

  private long clock = Frames.NONE;
  private long place = Frames.NONE;

  /** `merges`: main records come from several partitions. What comes next goes to `next`. */
  Order(Job.Stage stage, boolean merges, boolean live, KeyedStateBackend<String> backend, Hold.Taker next)
      throws Exception {
    this.gate = new Gate(merges, stage.hold(), stage.control() != null, live);
    this.main = new Hold(backend, "waits", merges, false);
    this.side = new Hold(backend, "waits-side", true, stage.side() != null && stage.side().tag() == null);
    this.reached = stage.main().tag() == null ? new HashMap<>() : null;
    this.later = stage.hold();
    this.next = next;
    for (byte[] frame : main.frames()) {
      if (reached != null) {
        reached.merge(Frames.partition(frame), Frames.reach(frame), Math::max);
      }
    }
  }

  /** Whether this stage, from now on, takes records as they come. */
  boolean live() {
    return gate.live();
  }

  /** How many main records wait. */
  int held() {
    return main.size();
  }

  /** The newest event time that a main record came with; NONE at first. */
  long clock() {
    return clock;
  }

  void main(String key, byte[] frame) throws Exception {
    if (gate.live()) {
      tell(Frames.reach(frame), Frames.place(frame));
      next.take(Frames.MAIN, key, frame);
    } else {
      settle(frame);
      main.add(key, frame);
      release();
    }
  }

  /** Behind a restart a source does not know what came before, but that may wait here. */
  private void settle(byte[] frame) {
    if (reached != null) {
      Frames.reach(frame, reached.merge(Frames.partition(frame), Frames.reach(frame), Math::max));
    }
  }

  void side(String key, byte[] frame) throws Exception {
    if (later && Frames.at(frame) != Frames.NONE && !side.precedes(frame, clock, place)) {
      side.add(key, frame);
    } else {
      next.take(Frames.SIDE, key, frame);
    }
  }

  void advance(int input, long mark) throws Exception {
    gate.advance(input, mark);
    release();
  }

  void idle(int input, boolean isIdle) throws Exception {
    gate.idle(input, isIdle);
    release();
  }

  /** Give what may pass to the stage. */
  void release() throws Exception {
    while (!main.isEmpty() && gate.passes(Frames.reach(main.first()), isLate(main.first()))) {
      tell(Frames.reach(main.first()), Frames.place(main.first()));
      main.release(Frames.MAIN, next);
    }
  }

  private static boolean isLate(byte[] frame) {
    return Frames.at(frame) < Frames.reach(frame);
  }

  /** The main record of this time and place comes next: first what had to be known before it. */
  private void tell(long reach, long at) throws Exception {
    boolean newer = reach > clock || reach == clock && at > place;
    long newest = newer ? reach : clock;
    long last = newer ? at : place;
    while (!side.isEmpty() && side.precedes(side.first(), newest, last)) {
      side.release(Frames.SIDE, next);
    }
    clock = newest; // timers go by it: none is due before what was to be known by then has come
    place = last;
  }

  /** The watermark to forward where that of the inputs is `mark`: what waits here is still to come. */
  long forward(long mark) {
    if (main.isEmpty()) {
      return mark;
    }
    long reach = Frames.reach(main.first());
    return reach == Frames.NONE ? Frames.NONE : Math.min(mark, reach - 1);
  }

  /** Write what waits to keyed state. */
  void write() throws Exception {
    main.write();
    side.write();
  }
}
