package millrace;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.LongPredicate;

/**
 * The records of one key group that wait for others of their keys, in few large arrays: a million objects would be
 * copied at collections, and written to state one by one.
 *
 * <p>A log: what comes is appended to the last chunk, and so is a note of what was taken. Once less than half of all is
 * still wanted the first chunk goes, and what waits in it is appended again: a note never outlives what it is about.
 *
 * <p>An entry is `i64 since · i32 hash · i32 length · frame`: since when it waits (ms), and its key's hash. With a
 * length of -1 it is the note that what is at the place `since` was taken.
 */
final class Pool {
  private static final int HEAD = 16;
  private static final int TAKEN = -1;
  private static final int OFFSET_BITS = 24;

  private final Sizes sizes;
  private final List<Chunk> chunks = new ArrayList<>();
  private final List<Long> dropped = new ArrayList<>();

  /** Number of the first chunk; the others follow. */
  private long first;

  /** Bytes of all chunks, and of the records that wait. */
  private long total;

  private long live;

  /** Open addressing: where the record of a hash is, -1 for nobody. */
  private long[] places = new long[8];

  private int[] hashes = new int[8];
  private int size;

  /**
   * Bytes: a chunk that has been written is extended below `open`; none grows beyond `most` by a second entry; `slack`
   * is what may be of no use in any case.
   */
  record Sizes(int open, int most, int slack) {}

  private static final class Chunk {
    byte[] bytes;
    int size;
    long newest = Long.MIN_VALUE;
    boolean written;
    boolean closed;
  }

  Pool(Sizes sizes) {
    this.sizes = sizes;
    Arrays.fill(places, -1);
  }

  int size() {
    return size;
  }

  // Records

  void add(int hash, byte[] frame, long since) {
    enter(hash, append(since, hash, frame, 0, frame.length));
  }

  /** Where a record of `hash` is that `matches`; -1: nowhere. */
  long find(int hash, LongPredicate matches) {
    int slot = slot(hash, matches);
    return slot < 0 ? -1 : places[slot];
  }

  /** The record at `place`. */
  byte[] frame(long place) {
    int start = offset(place);
    return Arrays.copyOfRange(chunk(place).bytes, start + HEAD, start + bytes(place));
  }

  /** Event time of the record at `place`. */
  long at(long place) {
    return Frames.getLong(chunk(place).bytes, offset(place) + HEAD);
  }

  /** The record at `place` waits no longer. */
  void take(int hash, long place) {
    leave(hash, place);
    append(place, hash, null, 0, TAKEN);
    while (total > 2 * live + sizes.slack() && chunks.size() > 1) {
      drop(true);
    }
  }

  /** Calls `each` with the hash and the place of every record. */
  void forEach(Visitor each) {
    for (int slot = 0; slot < places.length; slot++) {
      if (places[slot] >= 0) {
        each.visit(hashes[slot], places[slot]);
      }
    }
  }

  /** Forget chunks whose records have all waited since before that. */
  void expire(long before) {
    while (!chunks.isEmpty() && chunks.get(0).closed && chunks.get(0).newest < before) {
      drop(false);
    }
  }

  // Chunks

  /** Give what came since the last time to `store`. */
  void write(Store store) throws Exception {
    for (long number : dropped) {
      store.put(number, null);
    }
    dropped.clear();
    for (int i = chunks.size() - 1; i >= 0 && !chunks.get(i).written; i--) {
      Chunk chunk = chunks.get(i);
      byte[] bytes = Arrays.copyOf(chunk.bytes, chunk.size);
      store.put(first + i, bytes);
      chunk.written = true;
      chunk.closed |= chunk.size >= sizes.open();
      if (chunk.closed) {
        chunk.bytes = bytes;
      }
    }
  }

  /** Take up a chunk that was written; they come in the order of their numbers, to a new pool. */
  void read(long number, byte[] bytes) {
    if (chunks.isEmpty()) {
      first = number;
    }
    if (number != first + chunks.size()) {
      throw new IllegalStateException("found chunk " + number + ", expected " + (first + chunks.size()));
    }
    Chunk chunk = new Chunk();
    chunk.bytes = bytes;
    chunk.size = bytes.length;
    chunk.written = true;
    chunk.closed = true;
    chunks.add(chunk);
    total += bytes.length;
    for (int p = 0; p < bytes.length; p = next(bytes, p)) {
      long since = Frames.getLong(bytes, p);
      int hash = Frames.getInt(bytes, p + 8);
      if (Frames.getInt(bytes, p + 12) != TAKEN) {
        chunk.newest = Math.max(chunk.newest, since);
        enter(hash, place(number, p));
      } else if (number(since) >= first) {
        leave(hash, since);
      }
    }
  }

  private long append(long since, int hash, byte[] from, int start, int length) {
    int bytes = HEAD + Math.max(length, 0);
    Chunk chunk = chunks.isEmpty() ? null : chunks.get(chunks.size() - 1);
    if (chunk != null && chunk.size + bytes > sizes.most()) {
      chunk.closed = true;
    }
    if (chunk == null || chunk.closed) {
      chunk = new Chunk();
      chunk.bytes = new byte[Math.max(bytes, sizes.open())];
      chunks.add(chunk);
    }
    if (chunk.size + bytes > chunk.bytes.length) {
      chunk.bytes = Arrays.copyOf(chunk.bytes, Math.max(2 * chunk.bytes.length, chunk.size + bytes));
    }
    int p = chunk.size;
    Frames.putInt(chunk.bytes, Frames.putInt(chunk.bytes, Frames.putLong(chunk.bytes, p, since), hash), length);
    if (length != TAKEN) {
      System.arraycopy(from, start, chunk.bytes, p + HEAD, length);
      chunk.newest = Math.max(chunk.newest, since);
    }
    chunk.size += bytes;
    chunk.written = false;
    total += bytes;
    return place(first + chunks.size() - 1, p);
  }

  /** Drop the first chunk: what waits in it is appended again, or forgotten. */
  private void drop(boolean again) {
    Chunk chunk = chunks.get(0);
    for (int p = 0; p < chunk.size; p = next(chunk.bytes, p)) {
      long since = Frames.getLong(chunk.bytes, p);
      int hash = Frames.getInt(chunk.bytes, p + 8);
      int length = Frames.getInt(chunk.bytes, p + 12);
      long place = place(first, p);
      int slot = length == TAKEN ? -1 : slot(hash, other -> other == place);
      if (slot >= 0 && again) {
        places[slot] = append(since, hash, chunk.bytes, p + HEAD, length);
      } else if (slot >= 0) {
        leave(hash, place);
      }
    }
    total -= chunk.size;
    chunks.remove(0);
    dropped.add(first++);
  }

  private static int next(byte[] bytes, int p) {
    return p + HEAD + Math.max(Frames.getInt(bytes, p + 12), 0);
  }

  private static long place(long number, int offset) {
    return number << OFFSET_BITS | offset;
  }

  private static long number(long place) {
    return place >>> OFFSET_BITS;
  }

  private static int offset(long place) {
    return (int) place & (1 << OFFSET_BITS) - 1;
  }

  private Chunk chunk(long place) {
    return chunks.get((int) (number(place) - first));
  }

  private int bytes(long place) {
    return HEAD + Frames.getInt(chunk(place).bytes, offset(place) + 12);
  }

  // Index

  private void enter(int hash, long place) {
    if (4 * (size + 1) > 3 * places.length) {
      grow();
    }
    live += bytes(place);
    size++;
    put(hash, place);
  }

  private void put(int hash, long place) {
    int slot = home(hash);
    while (places[slot] >= 0) {
      slot = slot + 1 & places.length - 1;
    }
    hashes[slot] = hash;
    places[slot] = place;
  }

  private void grow() {
    int[] oldHashes = hashes;
    long[] old = places;
    places = new long[2 * old.length];
    hashes = new int[2 * old.length];
    Arrays.fill(places, -1);
    for (int slot = 0; slot < old.length; slot++) {
      if (old[slot] >= 0) {
        put(oldHashes[slot], old[slot]);
      }
    }
  }

  /** Remove a record; those behind it that could not be where they belong move up. */
  private void leave(int hash, long place) {
    int free = slot(hash, other -> other == place);
    if (free < 0) {
      throw new IllegalStateException("found no record at " + place + ", expected one that waits");
    }
    live -= bytes(place);
    size--;
    int mask = places.length - 1;
    for (int slot = free + 1 & mask; places[slot] >= 0; slot = slot + 1 & mask) {
      if ((slot - home(hashes[slot]) & mask) >= (slot - free & mask)) {
        hashes[free] = hashes[slot];
        places[free] = places[slot];
        free = slot;
      }
    }
    places[free] = -1;
  }

  private int slot(int hash, LongPredicate matches) {
    for (int slot = home(hash); places[slot] >= 0; slot = slot + 1 & places.length - 1) {
      if (hashes[slot] == hash && matches.test(places[slot])) {
        return slot;
      }
    }
    return -1;
  }

  /** Where the record of a hash belongs: the upper bits of the product are those that mix. */
  private int home(int hash) {
    return hash * 0x9E3779B9 >>> Integer.numberOfLeadingZeros(places.length) + 1;
  }

  /** Takes a record. */
  interface Visitor {
    void visit(int hash, long place);
  }

  /** Keeps chunks by their numbers; `bytes` null: no longer. */
  interface Store {
    void put(long number, byte[] bytes) throws Exception;
  }
}
