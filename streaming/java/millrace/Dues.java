package millrace;

import java.util.Arrays;

/** A queue of times, the earliest first, each with a number: a binary heap in two arrays. */
final class Dues {
  private long[] times = new long[64];
  private int[] numbers = new int[64];
  private int size;

  boolean isEmpty() {
    return size == 0;
  }

  /** The earliest time. */
  long first() {
    return times[0];
  }

  void add(long time, int number) {
    if (size == times.length) {
      times = Arrays.copyOf(times, 2 * size);
      numbers = Arrays.copyOf(numbers, 2 * size);
    }
    int i = size++;
    for (int up = i - 1 >> 1; i > 0 && times[up] > time; up = i - 1 >> 1) {
      move(up, i);
      i = up;
    }
    times[i] = time;
    numbers[i] = number;
  }

  /** Remove the earliest; its number. */
  int remove() {
    int number = numbers[0];
    long time = times[--size];
    int last = numbers[size];
    int i = 0;
    for (int down = 1; down < size; down = 2 * i + 1) {
      if (down + 1 < size && times[down + 1] < times[down]) {
        down++;
      }
      if (times[down] >= time) {
        break;
      }
      move(down, i);
      i = down;
    }
    times[i] = time;
    numbers[i] = last;
    return number;
  }

  private void move(int from, int to) {
    times[to] = times[from];
    numbers[to] = numbers[from];
  }
}
