package millrace;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.runtime.state.KeyedStateBackend;

/**
 * The order in which a stage takes its records. Once the job has caught up, that of their arrival. Before, main records
 * wait at the gate; those of several partitions leave it by event time, as if they came from one, since partitions are
 * read at different speeds. A side record counts for later main records only, and waits for the first of them: keys
 * have room for few that wait.
 */
final class Order {
  private final Gate gate;
  private final Hold main;
  private final Hold side;
  private final boolean later;
  private final Hold.Taker next;
  private long clock = Frames.NONE;

  /** `merges`: main records come from several partitions. What comes next goes to `next`. */
  Order(Job.Stage stage, boolean merges, boolean live, KeyedStateBackend<String> backend, Hold.Taker next)
      throws Exception {
    this.gate = new Gate(merges, stage.hold(), stage.control() != null, live);
    this.main = new Hold(backend, "held", merges, stage.main().tag() == null ? inPartitions() : Order::at);
    this.side = new Hold(backend, "held-side", true, Order::at);
    this.later = stage.hold();
    this.next = next;
  }

  /** A partition's own order is that of its keys, so where its event times go back, those count that came before. */
  private static Hold.Times inPartitions() {
    Map<Integer, Long> newest = new HashMap<>();
    return (frame, least) -> newest.merge(Frames.partition(frame), at(frame, least), Math::max);
  }

  private static long at(byte[] frame, long least) {
    return Math.max(Frames.at(frame), least);
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
      tell(Frames.at(frame));
      next.take(Frames.MAIN, key, frame);
    } else {
      main.add(key, frame);
      release();
    }
  }

  void side(String key, byte[] frame) throws Exception {
    long at = Frames.at(frame);
    if (later && at != Frames.NONE && at >= clock) {
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
    while (!main.isEmpty() && gate.passes(main.at())) {
      tell(main.at());
      main.release(Frames.MAIN, next);
    }
  }

  /** A main record of this event time comes next: first what had to be known before it. */
  private void tell(long at) throws Exception {
    long reached = Math.max(clock, at);
    while (!side.isEmpty() && side.at() < reached) {
      side.release(Frames.SIDE, next);
    }
    clock = reached; // timers go by it: none is due before what was to be known by then has come
  }

  /** The watermark to forward where that of the inputs is `mark`: what waits here is still to come. */
  long forward(long mark) {
    if (main.isEmpty()) {
      return mark;
    }
    return main.at() == Frames.NONE ? Frames.NONE : Math.min(mark, main.at() - 1);
  }

  /** Write what waits to keyed state. */
  void write() throws Exception {
    main.write();
    side.write();
  }
}
