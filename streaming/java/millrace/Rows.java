package millrace;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Which keys Python has the states of, and in which rows. Between two checkpoints a state lives there only: it is
 * handed over, to Flink's keyed state, before a checkpoint, when its row is wanted for another key, and when there is
 * time.
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

  /** Rows whose states were not handed over since they changed, and where each stands among them (-1: it does not). */
  private final int[] changed;

  private final int[] place;
  private final int[] free;
  private int changedSize;
  private int freeSize;
  private int hand;
  private long batch = 1;

  /** `capacity` rows, of which a batch needs at most `room`, a quarter of them or less. */
  Rows(int capacity, int room) {
    this.room = room;
    this.keys = new String[capacity];
    this.used = new boolean[capacity];
    this.needed = new long[capacity];
    this.changed = new int[capacity];
    this.place = new int[capacity];
    this.free = new int[capacity];
    for (int row = capacity - 1; row >= 0; row--) {
      place[row] = -1;
      free[freeSize++] = row;
    }
  }

  /** The row of a key of the batch that is being filled; a new one is admitted to a free row. */
  int of(String key) {
    Integer found = index.get(key);
    int row = found == null ? admit(key) : found;
    used[row] = true;
    needed[row] = batch;
    if (place[row] < 0) {
      place[row] = changedSize;
      changed[changedSize++] = row;
    }
    return row;
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
    return changedSize;
  }

  boolean isChanged(int row) {
    return place[row] >= 0;
  }

  /** The last `count` of the changed rows, or all, from now on taken for handed over. */
  int[] take(int count) {
    int[] taken = new int[Math.min(count, changedSize)];
    for (int i = 0; i < taken.length; i++) {
      taken[i] = changed[--changedSize];
      place[taken[i]] = -1;
    }
    return taken;
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
    if (place[row] >= 0) {
      int last = changed[--changedSize];
      changed[place[row]] = last;
      place[last] = place[row];
      place[row] = -1;
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
