/* Which server is called 0, and which holder, is no matter: of all states that differ in that
 * only one is kept.
 *
 * Only for the search: a trail would change names in the middle.  A server's column is all that
 * there is about it, what refers to it included; the order of the columns is the order of the
 * servers.  Of the orders of the holders the one with the least columns is taken.
 */
c_code {
typedef unsigned long long Column;
typedef struct { Column servers[SERVERS]; unsigned holders[HOLDERS]; } Order;

static void order_put(Column *c, unsigned bits, unsigned value) { *c = (*c << bits) | value; }
static unsigned order_take(Column *c, unsigned bits) {
  unsigned value = (unsigned) (*c & ((1ull << bits) - 1));
  *c >>= bits;
  return value;
}

/* The columns of the state, its holders in the order of `who`. */
static void order_read(Order *o, const int *who) {
  int s, k, j;
  for (s = 0; s < SERVERS; s++) {
    Column c = 0;
    order_put(&c, 2, now.status[s]);
    order_put(&c, 2, now.seats[s]);
    order_put(&c, 1, now.alive[s]);
    order_put(&c, 1, now.lease[s]);
    order_put(&c, 1, now.lost[s]);
    order_put(&c, 1, now.recovering[s]);
    order_put(&c, 2, now.releases[s]);
    for (k = 0; k < HOLDERS; k++) {
      int a = who[k], at = s * HOLDERS + a;
      order_put(&c, 3, now.record[at]);
      order_put(&c, 2, now.reclaim[at]);
      order_put(&c, 2, now.recovery[at]);
      order_put(&c, 1, now.gone[at]);
      order_put(&c, 1, now.issuer[a] == s);
      order_put(&c, 1, now.last[a] == s);
      order_put(&c, 1, now.message[a] && now.to[a] == s);
      order_put(&c, 1, (now.message[a] == CONFIRMED || now.message[a] == CONFIRM) && now.about[a] == s);
      order_put(&c, 1, now.giver[a] == s);
      order_put(&c, 1, now.taker[a] == s);
    }
    for (j = s; j > 0 && o->servers[j - 1] > c; j--)
      o->servers[j] = o->servers[j - 1];
    o->servers[j] = c;
  }
  for (k = 0; k < HOLDERS; k++)
    o->holders[k] = now.holder[who[k]] * 8 + now.message[who[k]];
}

static void order_write(const Order *o) {
  int s, a;
  for (a = 0; a < HOLDERS; a++) {
    now.holder[a] = o->holders[a] / 8;
    now.message[a] = o->holders[a] % 8;
    now.issuer[a] = now.last[a] = now.giver[a] = now.taker[a] = SERVERS;
    now.to[a] = now.about[a] = 0;
  }
  for (s = 0; s < SERVERS; s++) {
    Column c = o->servers[s];
    for (a = HOLDERS - 1; a >= 0; a--) {
      int at = s * HOLDERS + a;
      if (order_take(&c, 1)) now.taker[a] = s;
      if (order_take(&c, 1)) now.giver[a] = s;
      if (order_take(&c, 1)) now.about[a] = s;
      if (order_take(&c, 1)) now.to[a] = s;
      if (order_take(&c, 1)) now.last[a] = s;
      if (order_take(&c, 1)) now.issuer[a] = s;
      now.gone[at] = order_take(&c, 1);
      now.recovery[at] = order_take(&c, 2);
      now.reclaim[at] = order_take(&c, 2);
      now.record[at] = order_take(&c, 3);
    }
    now.releases[s] = order_take(&c, 2);
    now.recovering[s] = order_take(&c, 1);
    now.lost[s] = order_take(&c, 1);
    now.lease[s] = order_take(&c, 1);
    now.alive[s] = order_take(&c, 1);
    now.seats[s] = order_take(&c, 2);
    now.status[s] = order_take(&c, 2);
  }
}

static int order_less(const Order *a, const Order *b) {
  int k;
  for (k = 0; k < HOLDERS; k++)
    if (a->holders[k] != b->holders[k]) return a->holders[k] < b->holders[k];
  for (k = 0; k < SERVERS; k++)
    if (a->servers[k] != b->servers[k]) return a->servers[k] < b->servers[k];
  return 0;
}

static void in_one_order(void) {
#if HOLDERS == 2
  static const int orders[][2] = {{0, 1}, {1, 0}};
#else
  static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
#endif
  Order best, other;
  unsigned k;
  order_read(&best, orders[0]);
  for (k = 1; k < sizeof orders / sizeof *orders; k++) {
    order_read(&other, orders[k]);
    if (order_less(&other, &best)) best = other;
  }
  order_write(&best);
}
}
