package millrace;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.streaming.api.operators.InternalTimerService;

/** The calls of Python of one operator, and the keyed states that go in and come back with them. */
final class Calls {
  /** States that are handed over in one call, and that may wait for a checkpoint: more would hold up what comes. */
  private static final int KEPT = 256;

  private final Resident resident;
  private final KeyedStateBackend<String> backend;
  private final ValueState<byte[]> state;
  private final InternalTimerService<VoidNamespace> timers;
  private final Batch batch;
  private final Rows keys;

  /** Whether Python keeps states from call to call, until they are handed over. */
  private final boolean keeps;

  private final long waitMs;

  /** When the last checkpoint was taken, and how long after the one before, ns. */
  private long checkpointed = System.nanoTime();

  private long period;

  /**
   * `rows`: of how many keys Python keeps the states from call to call (0: it gets and gives them with each);
   * `waitMs`: for how much event time a main record may wait in place of a state (0: for any, -1: none waits).
   */
  Calls(
      Resident resident, KeyedStateBackend<String> backend, ValueState<byte[]> state,
      InternalTimerService<VoidNamespace> timers, Batch batch, int rows, long waitMs) {
    this.resident = resident;
    this.backend = backend;
    this.state = state;
    this.timers = timers;
    this.batch = batch;
    this.keeps = rows > 0;
    this.waitMs = waitMs;
    this.keys = new Rows(Math.max(rows, 4 * batch.capacity()), batch.capacity());
  }

  void put(int port, String key, byte[] frame) throws Exception {
    if (port != Frames.MAIN || waitMs < 0 || !waits(key, frame)) {
      batch.add(port, keys.of(key), frame);
    }
  }

  /** Leave a record where its key has no state yet, nor a record in this batch, which would have to go before it. */
  private boolean waits(String key, byte[] frame) throws Exception {
    if (keys.has(key)) {
      return false;
    }
    backend.setCurrentKey(key);
    if (state.value() != null) {
      return false;
    }
    state.update(Frames.waiting(frame));
    if (waitMs > 0) {
      timers.registerEventTimeTimer(VoidNamespace.INSTANCE, Frames.at(frame) + waitMs);
    }
    return true;
  }

  int size() {
    return batch.size();
  }

  boolean full() {
    return batch.full();
  }

  /** Whether Python has changed states since it handed them over. */
  boolean waiting() {
    return keys.changed() > 0;
  }

  /** Process the batch. */
  Response run() throws Exception {
    if (!keeps) {
      Response response = call(keys.admitted().stream().mapToInt(Integer::intValue).toArray());
      keys.clear();
      return response;
    }
    // Where batches are full, nobody waits for one record: what a checkpoint finds then may take its time.
    int[] late = keys.take(full() || early() ? 0 : Math.min(2 * batch.size() + KEPT / 8, keys.changed() - KEPT));
    int[] victims = keys.victims();
    Response response = call(IntStream.concat(
        Arrays.stream(late), Arrays.stream(victims).filter(keys::isChanged)).toArray());
    for (int row : victims) {
      keys.free(row);
    }
    keys.next();
    return response;
  }

  /** Write some of the states that Python keeps to keyed state. The batch must be empty. */
  void handOver() throws Exception {
    call(keys.take(KEPT));
  }

  /** Whether the next checkpoint is so far away that what is handed over now will often have changed again by then. */
  boolean early() {
    return System.nanoTime() - checkpointed < period / 2;
  }

  /** Write all of the states that Python keeps to keyed state, for a checkpoint. */
  void checkpoint() throws Exception {
    while (keys.changed() > 0) {
      handOver();
    }
    long now = System.nanoTime();
    period = now - checkpointed;
    checkpointed = now;
  }

  private Response call(int[] handed) throws Exception {
    List<Batch.Admitted> admitted = new ArrayList<>();
    for (int row : keys.admitted()) {
      backend.setCurrentKey(keys.key(row));
      admitted.add(new Batch.Admitted(row, keys.key(row), state.value()));
    }
    Response response = new Response(resident.call("process", batch.request(admitted, handed)), handed.length);
    response.forEachKey((i, fresh, timer) -> keep(keys.key(handed[i]), fresh, timer));
    batch.clear();
    return response;
  }

  /** A key's new state (null: unchanged, empty: cleared), and its timer. */
  private void keep(String key, byte[] fresh, long timer) throws Exception {
    if (fresh == null && timer == Frames.NONE) {
      return;
    }
    backend.setCurrentKey(key);
    if (fresh != null && fresh.length == 0) {
      state.clear();
    } else if (fresh != null) {
      state.update(fresh);
    }
    if (timer != Frames.NONE) {
      timers.registerEventTimeTimer(VoidNamespace.INSTANCE, timer);
    }
  }
}
