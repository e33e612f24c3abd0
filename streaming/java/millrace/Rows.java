package millrace;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Which keys Python has the states of, and in which rows. Between two checkpoints a state lives there only: it is
 * handed over, to Flink's keyed state, before a checkpoint, when its row is wanted for another key, when many others
 * have changed since, and when there is time.
 */
final class Rows {
  private final int room;

  /**
   * Where keys are, by their hashes or in the next free place: the hash above, row + 1 below; 0: nothing. A map of
   * objects costs two more cache misses.
   */
  private long[] index = new long[1024];

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
  private final int[] found;

  /** Nobody wants it: what is read must be used somehow, or the compiler leaves the reading out. */
  @SuppressWarnings("unused")
  private int fetched;

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
    this.found = new int[room];
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

  /**
   * Read what is known of the first `count` of `wanted` keys, so that `of` finds it in a cache: as none of these reads
   * waits for another one, the processor does many at once, which is ten times as fast as one after the other.
   */
  void fetch(String[] wanted, int count) {
    for (int i = 0; i < count; i++) {
      found[i] = row(home(wanted[i].hashCode()));
    }
    for (int i = 0; i < count; i++) {
      if (found[i] >= 0) {
        fetched += after[found[i]] + (int) needed[found[i]] + keys[found[i]].length();
      }
    }
  }

  /** The row of a key of the batch that is being filled; a new one is admitted to a free row. */
  int of(String key) {
    int place = place(key);
    int row = index[place] == 0 ? admit(key, place) : row(place);
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
    return index[place(key)] != 0;
  }

  private int admit(String key, int place) {
    int row = free[--freeSize];
    keys[row] = key;
    index[place] = (long) key.hashCode() << 32 | row + 1;
    admitted.add(row);
    if (2 * (keys.length - freeSize) > index.length) {
      grow();
    }
    return row;
  }

  /** Twice the places: no more than keys need, as few fit a cache. */
  private void grow() {
    long[] before = index;
    index = new long[2 * before.length];
    for (long one : before) {
      if (one != 0) {
        int place = home((int) (one >> 32));
        while (index[place] != 0) {
          place = next(place);
        }
        index[place] = one;
      }
    }
  }

  /** The place of a key, or the free one that it would get. */
  private int place(String key) {
    int hash = key.hashCode();
    int place = home(hash);
    while (index[place] != 0 && !((int) (index[place] >> 32) == hash && keys[row(place)].equals(key))) {
      place = next(place);
    }
    return place;
  }

  private int row(int place) {
    return (int) index[place] - 1;
  }

  private int home(int hash) {
    return hash * 0x9E3779B9 >>> Integer.numberOfLeadingZeros(index.length - 1); // Fibonacci hashing
  }

  private int next(int place) {
    return place + 1 & index.length - 1;
  }

  /** Free a place; what would not be found behind it moves up. */
  private void vacate(int place) {
    for (int other = next(place); index[other] != 0; other = next(other)) {
      int away = other - home((int) (index[other] >> 32)) & index.length - 1;
      if (away >= (other - place & index.length - 1)) {
        index[place] = index[other];
        place = other;
      }
    }
    index[place] = 0;
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
    vacate(place(keys[row]));
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
