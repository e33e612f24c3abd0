package millrace;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.streaming.api.operators.InternalTimerService;

/** The calls of Python of one operator, and the keyed states that go in and come back with them. */
final class Calls {
  /** The most states that are handed over in one call: more would hold up what comes. */
  private static final int MOST = 256;

  private final Resident resident;
  private final KeyedStateBackend<String> backend;
  private final Kept state;

  /** What came for a key since its state was written: Python folds it again. */
  private final Kept log;

  /** By row: whether the key has a log. */
  private final boolean[] logged;

  private final InternalTimerService<VoidNamespace> timers;
  private final Batch batch;
  private final Rows keys;

  /** Whether Python keeps states from call to call, until they are handed over. */
  private final boolean keeps;

  /** What waits in place of a state; null where nothing does. */
  private final Waiting waiting;

  /** Whether states are in memory anyway: of what waits elsewhere, memory might not hold all. */
  private final boolean inMemory;

  /** By row: what waited until this batch. */
  private final byte[][] waited;

  /** When the last checkpoint was taken, and how long after the one before, ns. */
  private long checkpointed = System.nanoTime();

  private long period;

  /** When `share` was asked last, ns. */
  private long reckoned;

  /**
   * `rows`: of how many keys Python keeps the states from call to call (0: it gets and gives them with each);
   * `waiting`: null where no record may wait in place of a state.
   */
  Calls(
      Resident resident, KeyedStateBackend<String> backend, Kept state, Kept log, Waiting waiting,
      InternalTimerService<VoidNamespace> timers, Batch batch, int rows) {
    this.resident = resident;
    this.backend = backend;
    this.state = state;
    this.log = log;
    this.timers = timers;
    this.batch = batch;
    this.keeps = rows > 0;
    this.waiting = waiting;
    this.inMemory = backend.getBackendTypeIdentifier().equals("hashmap");
    int capacity = Math.max(rows, 4 * batch.capacity());
    this.keys = new Rows(capacity, batch.capacity());
    this.logged = new boolean[capacity];
    this.waited = new byte[waiting == null ? 0 : capacity][];
  }

  void put(int port, String key, byte[] frame) throws Exception {
    if (waiting != null && !keys.has(key)) {
      byte[] before = waiting.take(key);
      if (before == null && port == Frames.MAIN && waits(key, frame)) {
        return;
      }
      waited[keys.of(key)] = before;
    }
    batch.add(port, key, frame);
  }

  /** Leave a record where its key has no state yet. */
  private boolean waits(String key, byte[] frame) throws Exception {
    backend.setCurrentKey(key);
    if (state.value() != null) {
      return false;
    }
    if (inMemory) {
      waiting.add(key, frame);
      return true;
    }
    state.update(Frames.waiting(frame));
    if (waiting.waitMs() > 0) {
      timers.registerEventTimeTimer(VoidNamespace.INSTANCE, Frames.at(frame) + waiting.waitMs());
    }
    return true;
  }

  /** When one that waits has waited long enough; `Frames.LIVE`: none ever has. */
  long due() {
    return waiting == null ? Frames.LIVE : waiting.due();
  }

  /** The timer of the first that is due. */
  void time() throws Exception {
    long due = waiting.due();
    String key = waiting.next();
    if (key != null) {
      time(key, due);
    }
  }

  /** The timer of a key. */
  void time(String key, long due) throws Exception {
    byte[] time = new byte[Long.BYTES];
    Frames.putLong(time, 0, due);
    put(Frames.TIMER, key, time);
  }

  int size() {
    return batch.size();
  }

  boolean full() {
    return batch.full();
  }

  /** Process the batch. */
  Response run() throws Exception {
    batch.resolve(keys);
    if (!keeps) {
      Response response = call(keys.admitted().stream().mapToInt(Integer::intValue).toArray());
      keys.clear();
      return response;
    }
    // Where batches are full, nobody waits for one record: what a checkpoint finds then may take its time.
    int[] late = keys.take(full() ? 0 : Math.min(2 * batch.size() + MOST / 8, share()));
    int[] victims = keys.victims();
    Response response = call(IntStream.concat(
        Arrays.stream(late), Arrays.stream(victims).filter(keys::isChanged)).toArray());
    for (int row : victims) {
      keys.free(row);
    }
    keys.next();
    return response;
  }

  /** Where there is time, write some of the states that Python keeps to keyed state. */
  void tidy() throws Exception {
    int count = size() > 0 ? 0 : Math.min(MOST, share());
    if (count > 0) {
      call(keys.take(count));
    }
  }

  /**
   * How many states are to be handed over now, so that few are left for the next checkpoint and no call has many: twice
   * what would do if no others changed meanwhile, which comes to about as many in each call under steady load. What is
   * handed over in the first half of the time until then will often have changed again.
   */
  private int share() {
    long now = System.nanoTime();
    long left = Math.max(1, checkpointed + period - period / 16 - now);
    long since = Math.min(now - reckoned, left);
    reckoned = now;
    return 2 * left > period ? 0 : (int) (2 * keys.changed() * since / left);
  }

  /** Write all of the states that Python keeps to keyed state, for a checkpoint, and what waits. */
  void checkpoint() throws Exception {
    if (waiting != null) {
      waiting.write();
    }
    while (keys.changed() > 0) {
      call(keys.take(MOST));
    }
    long now = System.nanoTime();
    period = now - checkpointed;
    checkpointed = now;
  }

  private Response call(int[] handed) throws Exception {
    List<Batch.Admitted> admitted = new ArrayList<>();
    for (int row : keys.admitted()) {
      backend.setCurrentKey(keys.key(row));
      byte[] before = waiting == null ? null : waited[row];
      byte[] known = before == null ? state.value() : before;
      byte[] since = keeps ? log.value() : null;
      logged[row] = since != null;
      admitted.add(new Batch.Admitted(row, keys.key(row), known, since));
    }
    Response response = new Response(resident.call("process", batch.request(admitted, handed)), handed.length);
    response.forEachKey((i, fresh, isLog, timer) -> keep(handed[i], fresh, isLog, timer));
    batch.clear();
    return response;
  }

  /** A key's new state (null: unchanged, empty: cleared) or what came for it since, and its timer. */
  private void keep(int row, byte[] fresh, boolean isLog, long timer) throws Exception {
    if (fresh == null && waiting != null && waited[row] != null) {
      throw new IllegalStateException("found no state for " + keys.key(row) + ", expected what came of what waited");
    }
    if (fresh == null && timer == Frames.NONE) {
      return;
    }
    backend.setCurrentKey(keys.key(row));
    if (isLog) {
      log.update(fresh);
      logged[row] = true;
    } else if (fresh != null && fresh.length == 0) {
      state.clear();
    } else if (fresh != null) {
      state.update(fresh);
      if (logged[row]) {
        log.clear();
        logged[row] = false;
      }
    }
    if (timer != Frames.NONE) {
      timers.registerEventTimeTimer(VoidNamespace.INSTANCE, timer);
    }
  }
}
