package millrace;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Which keys Python has the states of, and in which rows. Between two checkpoints a state lives there only: it is
 * handed over, to Flink's keyed state, before a checkpoint, when its row is wanted for another key, when many others
 * have changed since, and when there is time.
 */
final class Rows {
  private final int room;
  private final Map<String, Integer> index = new HashMap<>();
  private final List<Integer> admitted = new ArrayList<>();
  private final String[] keys;

  /** Read since the hand last passed: such a row is not given away yet. */
  private final boolean[] used;

  /** The last batch that a row was needed for. */
  private final long[] needed;

  /**
   * Rows whose states were not handed over since they changed, from the first to the last: a ring through `end`, the
   * index behind the last row. `after` is -1 for a row that is not in it.
   */
  private final int[] after;

  private final int[] before;
  private final int end;
  private final int[] free;
  private int changed;
  private int freeSize;
  private int hand;
  private long batch = 1;

  /** `capacity` rows, of which a batch needs at most `room`, a quarter of them or less. */
  Rows(int capacity, int room) {
    this.room = room;
    this.keys = new String[capacity];
    this.used = new boolean[capacity];
    this.needed = new long[capacity];
    this.after = new int[capacity + 1];
    this.before = new int[capacity + 1];
    this.end = capacity;
    this.free = new int[capacity];
    Arrays.fill(after, -1);
    after[end] = end;
    before[end] = end;
    for (int row = capacity - 1; row >= 0; row--) {
      free[freeSize++] = row;
    }
  }

  /** The row of a key of the batch that is being filled; a new one is admitted to a free row. */
  int of(String key) {
    Integer found = index.get(key);
    int row = found == null ? admit(key) : found;
    used[row] = true;
    needed[row] = batch;
    if (!isChanged(row)) {
      link(before[end], row);
      link(row, end);
      changed++;
    }
    return row;
  }

  boolean has(String key) {
    return index.containsKey(key);
  }

  private int admit(String key) {
    int row = free[--freeSize];
    keys[row] = key;
    index.put(key, row);
    admitted.add(row);
    return row;
  }

  String key(int row) {
    return keys[row];
  }

  /** Rows of keys of this batch whose states Python does not have yet, in the order in which they came. */
  List<Integer> admitted() {
    return admitted;
  }

  /** How many rows wait to be handed over. */
  int changed() {
    return changed;
  }

  boolean isChanged(int row) {
    return after[row] >= 0;
  }

  /** The `count` rows that changed first, or all, or none, from now on taken for handed over. */
  int[] take(int count) {
    int[] taken = new int[Math.max(0, Math.min(count, changed))];
    for (int i = 0; i < taken.length; i++) {
      taken[i] = after[end];
      unchanged(taken[i]);
    }
    return taken;
  }

  private void link(int row, int next) {
    after[row] = next;
    before[next] = row;
  }

  private void unchanged(int row) {
    link(before[row], after[row]);
    after[row] = -1;
    changed--;
  }

  /** Rows to `free` once their states have been handed over, so that the next batch finds room. */
  int[] victims() {
    int[] victims = new int[Math.max(0, room - freeSize)];
    for (int size = 0; size < victims.length; ) {
      hand = (hand + 1) % keys.length;
      if (keys[hand] != null && needed[hand] != batch) {
        if (!used[hand]) {
          needed[hand] = batch;
          victims[size++] = hand;
        }
        used[hand] = false;
      }
    }
    return victims;
  }

  /** Give up a row whose state has been handed over. */
  void free(int row) {
    if (isChanged(row)) {
      unchanged(row);
    }
    index.remove(keys[row]);
    keys[row] = null;
    free[freeSize++] = row;
  }

  /** Begin the next batch. */
  void next() {
    admitted.clear();
    batch++;
  }

  /** Forget the keys of this batch: Python keeps nothing. The rows of the next one begin with 0 again. */
  void clear() {
    for (int i = admitted.size() - 1; i >= 0; i--) {
      free(admitted.get(i));
    }
    next();
  }
}
