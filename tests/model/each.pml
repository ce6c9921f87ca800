/* EACH_...(E) is E at each server, holder, or place: what is written once is one event each. */

#define EACH_SERVER(E) E(0) E(1) SERVER_2(E)
#define EACH_SERVER_FOR(E, a) E(0, a) E(1, a) SERVER_2_FOR(E, a)
#define EACH_PAIR(E) E(0, 1) E(1, 0) PAIRS_2(E)
#define EACH_HOLDER(E) E(0) E(1) HOLDER_2(E)
#define EACH_HOLDER_AT(E, s) E(0, s) E(1, s) HOLDER_2_AT(E, s)
#define EACH_HOLDER_OF(E, w, s) E(0, w, s) E(1, w, s) HOLDER_2_OF(E, w, s)
#define SUM_HOLDERS(E) E(0) E(1) SUM_HOLDER_2(E)
#define EACH_PLACE(E) PLACES(E, 0) PLACES(E, 1) PLACES_2(E)
#define EACH_MOVE(E) MOVES(E, 0) MOVES(E, 1) MOVES_2(E)

#define PLACES(E, a) E(0, a) E(1, a) SERVER_2_FOR(E, a)
#define MOVES(E, a) E(0, 1, a) E(1, 0, a) PAIRS_2_FOR(E, a)

#if SERVERS == 3
#define SERVER_2(E) E(2)
#define SERVER_2_FOR(E, a) E(2, a)
#define PAIRS_2(E) E(0, 2) E(2, 0) E(1, 2) E(2, 1)
#define PAIRS_2_FOR(E, a) E(0, 2, a) E(2, 0, a) E(1, 2, a) E(2, 1, a)
#else
#define SERVER_2(E)
#define SERVER_2_FOR(E, a)
#define PAIRS_2(E)
#define PAIRS_2_FOR(E, a)
#endif

#if HOLDERS == 3
#define HOLDER_2(E) E(2)
#define SUM_HOLDER_2(E) E(2)
#define HOLDER_2_AT(E, s) E(2, s)
#define HOLDER_2_OF(E, w, s) E(2, w, s)
#define PLACES_2(E) PLACES(E, 2)
#define MOVES_2(E) MOVES(E, 2)
#else
#define HOLDER_2(E)
#define SUM_HOLDER_2(E)
#define HOLDER_2_AT(E, s)
#define HOLDER_2_OF(E, w, s)
#define PLACES_2(E)
#define MOVES_2(E)
#endif
