/* The seats of a pool: leases, downs, reclaims, moves and what holders rely on.
 *
 * May include nothing but rules.pml (what a switch -DWITHOUT_... removes), each.pml (loops) and
 * symmetry.pml.  README.rst says what is modelled, why the abstraction is sound, and which code
 * each rule is.  There are no clocks and no counters: nothing here bounds how often servers
 * crash, pause or renew their leases, how many messages are lost, nor how long the log gets.
 *
 * Every option of the loop at the end is one event at one place: a commit, a turn of one
 * server's loop, or a step of one client.  Any of them may wait for as long as it likes,
 * which is a pause, a lost or late message, or a partition.
 */

#ifndef SERVERS
#define SERVERS 3
#endif
#ifndef HOLDERS
#define HOLDERS 2
#endif
#ifndef SEATS
#define SEATS 3
#endif
#ifndef COUNT
#define COUNT 2 /* the seats of one authorization */
#endif

#include "each.pml"
#include "rules.pml"

/* What the pool has committed of a server. */
#define UP 0
#define DOWN 1
#define RECLAIMED 2

/* An authorization, for its holder. */
#define WANTED 0 /* it was not granted yet */
#define HELD 1 /* its holder relies on it */
#define ENDED 2 /* never again */

/* A wait that lasts a ttl, and what it must outlast of one holder's requests. */
#define OFF 0 /* there is no such wait */
#define PAST 1 /* all that was sent before it began has ended */
#define BASE 2 /* not the request by which the holder is valid now */
#define ALL 3 /* nor the one that is under way */

/* On a record the wait is the one for its expiry; or: */
#define LEAVING 4 /* set aside, to be handed over */
#define MOVED 5 /* handed over, and the server has not heard of it */

/* What is under way between a holder and the server `to`; `about` is a server that is down. */
#define NOTHING 0
#define ASKED 1 /* a checkout, or a heartbeat */
#define CONFIRMED 2 /* a heartbeat that confirms what `about` is */
#define GRANTED 3 /* an answer: valid from when the request was sent */
#define CONFIRM 4 /* an answer: confirm that you are valid now */

#define NOBODY SERVERS
#define at(s, a) ((s) * HOLDERS + (a))

/* Committed. */
byte status[SERVERS];
byte seats[SERVERS]; /* the allocation of each server */
byte free = SEATS; /* the free pool */
bool gone[SERVERS * HOLDERS]; /* moved away */
byte reclaim[SERVERS * HOLDERS]; /* of a server that is down: the wait to reclaim it */
byte last[HOLDERS]; /* the server to which it moved last */

/* Each server's own. */
bool alive[SERVERS];
bool lease[SERVERS]; /* the lease by the last committed renewal has not ended */
bool lost[SERVERS]; /* died, and its record with it */
bool recovering[SERVERS];
byte record[SERVERS * HOLDERS];
byte recovery[SERVERS * HOLDERS]; /* the wait to know again what it has granted */

/* Proposed, and committed at any later time or never. */
byte releases[SERVERS]; /* of one seat, which is set aside until then */
#define PENDING 1
#define STALE 2 /* proposed by an earlier incarnation */
#define AGAIN 3 /* committed once already */
byte giver[HOLDERS]; /* a handover, */
byte taker[HOLDERS]; /* and to whom */

/* The holders, and what is under way. */
byte holder[HOLDERS];
byte issuer[HOLDERS]; /* the server that its token names */
byte message[HOLDERS];
byte to[HOLDERS];
byte about[HOLDERS];

#ifdef WITHOUT_DOWN_NAMES_RENEWAL
bool called[SERVERS]; /* a ServerDown was proposed */
#endif
#ifdef WITHOUT_RECLAIM_NAMES_DOWN
bool claimed[SERVERS]; /* a Reclaim was proposed */
#endif
#ifdef WITHOUT_LEASE_FROM_PROPOSAL
bool waited[SERVERS]; /* the leader's wait on the last renewal is over */
bool unheard[SERVERS]; /* that renewal was committed, and its server has not applied it */
#endif
#ifdef WITHOUT_RECORD_BEFORE_SEATS
bool coming[SERVERS * HOLDERS]; /* moved here; its seats are there, it is not yet on record */
#endif

/* ---- Waits ---- */

/* What a wait that begins now must outlast of a holder's requests.  Where answers are prompt
   or lost, nobody will be valid by a request that was not answered yet but from its answer. */
#ifdef LATE_ANSWERS
#define begun(a) (holder[a] == ENDED -> PAST : \
    (message[a] != NOTHING -> ALL : (holder[a] == HELD -> BASE : PAST)))
#else
#define begun(a) (holder[a] == HELD -> BASE : PAST)
#endif
#define running(w) (w == BASE || w == ALL)

/* Whether a wait of a server is over for all holders. */
#define over_for(a, waits, s) && !running(waits[at(s, a)])
#define over(waits, s) (true EACH_HOLDER_OF(over_for, waits, s))

#define begin_for(a, waits, s) waits[at(s, a)] = begun(a);
#define begin_all(waits, s) EACH_HOLDER_OF(begin_for, waits, s) skip
#define stop_for(a, waits, s) waits[at(s, a)] = OFF;
#define stop_all(waits, s) EACH_HOLDER_OF(stop_for, waits, s) skip
/* Every wait of the holder changes from one value to another. */
#define one_becomes(w) if :: w == was -> w = is :: else fi;
#define become_at(s, a) one_becomes(record[at(s, a)]) one_becomes(reclaim[at(s, a)]) \
  one_becomes(recovery[at(s, a)])
inline becomes(a, was, is) { EACH_SERVER_FOR(become_at, a) skip }
/* The holder is valid by the request that was under way. */
inline superseded(a) { becomes(a, BASE, PAST); becomes(a, ALL, BASE) }
/* The request that was under way can make nobody valid any more. */
inline unsent(a) {
  if :: holder[a] == HELD -> becomes(a, ALL, BASE)
     :: else -> becomes(a, ALL, PAST)
  fi
}
inline all_ended(a) { becomes(a, BASE, PAST); becomes(a, ALL, PAST) }
inline no_message(a) { message[a] = NOTHING; to[a] = 0; about[a] = 0 }

/* ---- What a server has ---- */

#define on_record(s, a) (record[at(s, a)] >= PAST && record[at(s, a)] <= ALL)
#define is_leaving(s, a) (record[at(s, a)] == LEAVING)
#define counts_for(a, s) + (on_record(s, a) || (LEAVING_COUNTS && is_leaving(s, a)))
#define in_use(s) (COUNT * (0 EACH_HOLDER_AT(counts_for, s)))
#define set_aside(s) (SET_ASIDE && releases[s] == PENDING)
#define has_unused(s, count) (seats[s] >= in_use(s) + set_aside(s) + count)
#define acts(s) (alive[s] && (lease[s] || !LEASE_CHECKED))
/* It does nothing more before it is up again, so what it forgets then it may forget now. */
#define stands_still(s) (!lease[s] && status[s] != UP && LEASE_CHECKED && RENEWAL_REFUSED)
#define grants(s) (acts(s) && !recovering[s])
#define may_be_with(h, a) (issuer[a] == h || last[a] == h)
#define adoptable(h, a) (status[h] == DOWN && !gone[at(h, a)])

/* An authorization comes to a server by a committed move. */
inline arrives(s, a) {
  gone[at(s, a)] = false;
  last[a] = s;
#ifdef WITHOUT_RECORD_BEFORE_SEATS
  coming[at(s, a)] = (record[at(s, a)] == OFF)
#else
  if :: record[at(s, a)] == OFF && !lost[s] && (alive[s] || MOVES_ARE_SEEN) ->
        record[at(s, a)] = begun(a)
     :: on_record(s, a) && ARRIVAL_RENEWS -> record[at(s, a)] = begun(a)
     :: else
  fi
#endif
}
inline moves(h, s, a) {
  seats[h] = seats[h] - COUNT;
  seats[s] = seats[s] + COUNT;
  arrives(s, a);
  gone[at(h, a)] = true;
  if :: DROPS_ADOPTED && FORGET_SPARES_DOWN && stands_still(h) -> record[at(h, a)] = OFF :: else fi
}
/* A handover moves nothing any more: what was set aside is on record as before. */
inline stays(a) {
  if :: giver[a] != NOBODY && is_leaving(giver[a], a) -> record[at(giver[a], a)] = begun(a)
     :: else
  fi;
  giver[a] = NOBODY;
  taker[a] = NOBODY
}
/* What a server that is down or back had proposed has no effect. */
#define void_handover(a, s) \
  if :: taker[a] == s || (EARLIER_IS_VOID && giver[a] == s) -> stays(a) :: else fi;
inline void_proposals(s) {
  EACH_HOLDER_AT(void_handover, s)
  if :: EARLIER_IS_VOID -> releases[s] = 0
     :: else -> if :: releases[s] == PENDING -> releases[s] = STALE :: else fi
  fi
}
/* Who is asked to confirm, or confirms, by what is no more so, is told anew. */
#define void_confirmation(a, h) \
  if :: message[a] == CONFIRMED && about[a] == h -> message[a] = ASKED; about[a] = 0 \
     :: message[a] == CONFIRM && about[a] == h -> unsent(a); no_message(a) \
     :: else \
  fi;
inline void_confirmations(h) { EACH_HOLDER_AT(void_confirmation, h) skip }

/* ---- Leases, downs, reclaims: the log ---- */

#ifdef WITHOUT_LEASE_FROM_PROPOSAL
#define lease_is_over(s) waited[s]
#define begin_lease(s) waited[s] = false; unheard[s] = true
#define LEASE_EVENTS(s) \
:: d_step { !waited[s] -> waited[s] = true; printf("the lease of %d is over, for all but itself\n", s) } \
:: d_step { unheard[s] && alive[s] -> unheard[s] = false; lease[s] = true; \
     printf("%d applies its renewal\n", s) }
#else
#define lease_is_over(s) !lease[s]
#define begin_lease(s) lease[s] = true
#define LEASE_EVENTS(s)
#endif

#define RENEW(s) :: d_step { \
  alive[s] && (status[s] == UP || !RENEWAL_REFUSED) && lease_is_over(s) -> \
  begin_lease(s); printf("%d renews its lease\n", s) }

#define LEASE_ENDS(s) :: d_step { lease[s] -> lease[s] = false; printf("the lease of %d ends\n", s) }

#ifdef WITHOUT_DOWN_NAMES_RENEWAL
#define down_is_due(s) called[s]
#define void_down(s) called[s] = false
#define CALL(s) :: d_step { status[s] == UP && lease_is_over(s) && !called[s] -> called[s] = true; \
  printf("ServerDown(%d) is proposed\n", s) }
#else
#define down_is_due(s) (lease_is_over(s) || !DOWN_AFTER_LEASE)
#define void_down(s) skip
#define CALL(s)
#endif

#define SERVER_DOWN(s) :: d_step { status[s] == UP && down_is_due(s) -> \
  printf("%d is down\n", s); \
  status[s] = DOWN; void_down(s); void_proposals(s); begin_all(reclaim, s) }

#ifdef WITHOUT_RECLAIM_NAMES_DOWN
#define reclaim_is_due(s) claimed[s]
#define CLAIM(s) :: d_step { status[s] == DOWN && over(reclaim, s) && !claimed[s] -> \
  claimed[s] = true; printf("Reclaim(%d) is proposed\n", s) }
#define void_reclaim(s) claimed[s] = false
#else
#define reclaim_is_due(s) (over(reclaim, s) || !RECLAIM_AFTER_TTL)
#define CLAIM(s)
#define void_reclaim(s) skip
#endif

#define RECLAIM(s) :: d_step { status[s] == DOWN && reclaim_is_due(s) -> \
  printf("%d is reclaimed\n", s); \
  status[s] = RECLAIMED; void_reclaim(s); stop_all(reclaim, s); \
  if :: DROPS_RECLAIMED && stands_still(s) -> stop_all(record, s); \
          lost[s] = false; recovering[s] = false; stop_all(recovery, s) \
     :: else \
  fi }

/* What its record is worth when a server is back, as the next incarnation. */
#define recall_one(a, s) \
  if :: DROPS_ADOPTED && gone[at(s, a)] -> record[at(s, a)] = OFF \
     :: else -> if :: on_record(s, a) && !alive[s] -> record[at(s, a)] = begun(a) :: else fi \
  fi;
inline recalled(s) {
  if :: status[s] == RECLAIMED && DROPS_RECLAIMED -> stop_all(record, s)
     :: else ->
        EACH_HOLDER_AT(recall_one, s)
        if :: lost[s] && RECOVERS -> recovering[s] = true; begin_all(recovery, s)
           :: else
        fi
  fi
}

#define SERVER_UP(s) :: d_step { !alive[s] || status[s] != UP -> \
  printf("%d is up, as the next incarnation\n", s); \
  void_proposals(s); \
  if :: ADOPT_NAMES_DOWN -> void_confirmations(s) :: else fi; \
  recalled(s); stop_all(reclaim, s); void_down(s); \
  status[s] = UP; alive[s] = true; lost[s] = false; lease[s] = false }

/* ---- Moves of seats: the log ---- */

#define RELEASE(s) :: d_step { grants(s) && !releases[s] && has_unused(s, 1) -> \
  releases[s] = PENDING; printf("%d sets a seat aside and proposes its release\n", s) }

#define RELEASED(s) :: d_step { releases[s] && status[s] == UP -> \
  releases[s] = (RELEASE_ONCE || releases[s] == AGAIN -> 0 : AGAIN); \
  if :: seats[s] > 0 -> seats[s]--; free++ :: else fi; \
  printf("the release of a seat by %d is committed\n", s) }

#define NOT_RELEASED(s) :: d_step { releases[s] -> releases[s] = 0; \
  printf("the release by %d has no effect\n", s) }

#define BORROW(s) :: d_step { status[s] == UP && free > 0 -> free--; seats[s]++; \
  printf("%d gets a seat from the free pool\n", s) }

#define BORROW_FROM(h, s) :: d_step { status[s] == UP && status[h] == RECLAIMED && seats[h] > 0 -> \
  seats[h]--; seats[s]++; printf("%d gets a seat of %d, which was reclaimed\n", s, h) }

/* ---- Moves of authorizations ---- */

#define HAND_OVER(h, s, a) :: d_step { \
  message[a] != NOTHING && to[a] == s && \
  grants(h) && status[s] == UP && on_record(h, a) && giver[a] == NOBODY -> \
  record[at(h, a)] = LEAVING; giver[a] = h; taker[a] = s; \
  printf("%d sets authorization %d aside and proposes to hand it to %d\n", h, a, s) }

#define HANDED_OVER(h, s, a) :: d_step { giver[a] == h && taker[a] == s && status[h] == UP && \
  status[s] == UP && seats[h] >= COUNT -> \
  printf("authorization %d is handed from %d to %d\n", a, h, s); \
  moves(h, s, a); \
  if :: is_leaving(h, a) -> record[at(h, a)] = (HEARS_AT_ONCE -> OFF : MOVED) :: else fi; \
  giver[a] = NOBODY; taker[a] = NOBODY }

#define ADOPT(h, s, a) :: d_step { \
  to[a] == s && status[s] == UP && seats[h] >= COUNT && \
  ((message[a] == CONFIRMED && about[a] == h) || \
   (!TWO_STEPS && message[a] == ASKED && may_be_with(h, a) && acts(s))) && \
  (status[h] == DOWN || (!NOT_RECLAIMED && status[h] == RECLAIMED)) && \
  (!gone[at(h, a)] || !ADOPTED_ONCE) -> \
  printf("%d adopts authorization %d from %d\n", s, a, h); \
  moves(h, s, a) }

/* A token from before the move is one of that server: nobody was granted it there since. */
#define is_old(s, a) ((holder[a] != HELD || issuer[a] != s) && \
  !(message[a] == GRANTED && to[a] == s))
#define FORGET(s, a) :: d_step { \
  gone[at(s, a)] && (is_old(s, a) || !FORGET_AFTER_TTL) && \
  (status[s] != DOWN || !FORGET_SPARES_DOWN) -> gone[at(s, a)] = false; \
  printf("that authorization %d moved away from %d is forgotten\n", a, s) }

/* ---- One server's turn ---- */

#define GRANT(s, a) :: d_step { \
  message[a] == ASKED && to[a] == s && grants(s) && has_unused(s, COUNT) && \
  record[at(s, a)] == OFF && (!gone[at(s, a)] || !GONE_NOT_GRANTED) -> \
  record[at(s, a)] = begun(a); printf("%d grants authorization %d\n", s, a) }

#define renews(s, a) (on_record(s, a) || (!LEAVING_NOT_RENEWED && record[at(s, a)] >= LEAVING))
#define ANSWER(s, a) :: d_step { \
  (message[a] == ASKED || message[a] == CONFIRMED) && to[a] == s && acts(s) && renews(s, a) -> \
  printf("%d answers: authorization %d is valid\n", s, a); \
  if :: on_record(s, a) -> record[at(s, a)] = begun(a) :: else fi; \
  if :: holder[a] != ENDED -> granted(s, a) :: else fi }
#define relies(a) + (holder[a] == HELD)
#define relies_on(s, a) holder[a] = HELD; issuer[a] = s; \
  assert((0 SUM_HOLDERS(relies)) * COUNT <= SEATS)

#ifdef LATE_ANSWERS
#define granted(s, a) message[a] = GRANTED; about[a] = 0
#define RELY(a) :: d_step { message[a] == GRANTED -> \
  printf("holder %d relies on it, granted by %d\n", a, to[a]); \
  relies_on(to[a], a); no_message(a); \
  if :: COUNTS_FROM_SENT -> superseded(a) :: else -> all_ended(a) fi }
#define asked(h, a) message[a] = CONFIRM; about[a] = h
#define CONFIRMS(a) :: d_step { message[a] == CONFIRM && confirms(a) -> \
  unsent(a); message[a] = CONFIRMED; printf("holder %d confirms that it is valid\n", a) }
#else
#define granted(s, a) relies_on(s, a); all_ended(a); \
  if :: on_record(s, a) -> record[at(s, a)] = BASE :: else fi
#define RELY(a)
#define asked(h, a) message[a] = CONFIRMED; about[a] = h
#define CONFIRMS(a)
#endif

/* Only who is valid when it is asked confirms, so nobody else need be asked. */
#define confirms(a) (holder[a] == HELD || (holder[a] == ENDED && !STILL_VALID))
#define ASK(h, s, a) :: d_step { \
  message[a] == ASKED && to[a] == s && confirms(a) && grants(s) && \
  record[at(s, a)] == OFF && may_be_with(h, a) && adoptable(h, a) -> \
  asked(h, a); \
  printf("%d asks the holder of %d to confirm that %d is down\n", s, a, h) }

#define recovers(s, a) (acts(s) && recovering[s] && record[at(s, a)] == OFF && \
  may_be_with(s, a) && !gone[at(s, a)] && has_unused(s, COUNT))

#define ASK_RECOVERING(s, a) :: d_step { \
  RECOVERY_CONFIRMED && message[a] == ASKED && to[a] == s && confirms(a) && \
  recovers(s, a) -> asked(s, a); \
  printf("%d asks the holder of %d to confirm that it recovers\n", s, a) }

#define READMIT(s, a) :: d_step { to[a] == s && recovers(s, a) && \
  ((message[a] == CONFIRMED && about[a] == s) || \
   (!RECOVERY_CONFIRMED && message[a] == ASKED)) -> \
  record[at(s, a)] = begun(a); printf("%d has authorization %d on record again\n", s, a) }

#define RECOVERED(s) :: d_step { recovering[s] && alive[s] && over(recovery, s) -> \
  recovering[s] = false; stop_all(recovery, s); printf("%d knows what it has granted\n", s) }

#define may_expire(s, a) (record[at(s, a)] == PAST || \
  (!EXPIRY_AFTER_HOLDER && on_record(s, a)) || \
  (!LEAVING_STAYS && is_leaving(s, a) && holder[a] == ENDED))
#define EXPIRE(s, a) :: d_step { alive[s] && may_expire(s, a) -> record[at(s, a)] = OFF; \
  printf("authorization %d expires or is returned at %d\n", a, s) }

#define HEAR(s, a) :: d_step { alive[s] && record[at(s, a)] == MOVED -> record[at(s, a)] = OFF; \
  printf("%d hears that authorization %d has moved\n", s, a) }

#ifdef WITHOUT_RECORD_BEFORE_SEATS
#define RECORD(s, a) :: d_step { coming[at(s, a)] && alive[s] -> coming[at(s, a)] = false; \
  if :: record[at(s, a)] == OFF -> record[at(s, a)] = begun(a) :: else fi; \
  printf("%d has authorization %d on record, which moved here\n", s, a) }
#else
#define RECORD(s, a)
#endif

/* ---- Crashes ---- */

#define CRASH(s) :: d_step { alive[s] && (!recovering[s] || !RECORD_TRUSTED) -> alive[s] = false; \
  lease[s] = false; recovering[s] = false; stop_all(recovery, s); \
  printf("%d crashes, with its record on disk\n", s) }

#define CRASH_AND_LOSE(s) :: d_step { !lost[s] && (alive[s] || true) -> alive[s] = false; \
  lease[s] = false; lost[s] = true; recovering[s] = false; stop_all(recovery, s); \
  stop_all(record, s); printf("%d crashes, and loses its record\n", s) }

/* ---- A holder's step ---- */

#define SEND(s, a) :: d_step { holder[a] != ENDED && message[a] == NOTHING -> \
  message[a] = ASKED; to[a] = s; printf("holder %d sends a request to %d\n", a, s) }

#define LOSE(a) :: d_step { message[a] != NOTHING -> unsent(a); no_message(a); \
  printf("the message of holder %d is lost\n", a) }

#define END(a) :: d_step { holder[a] == HELD || (holder[a] == WANTED && message[a] != NOTHING) -> \
  holder[a] = ENDED; all_ended(a); \
  if :: message[a] == GRANTED || (message[a] == CONFIRM && STILL_VALID) -> no_message(a) \
     :: else \
  fi; \
  printf("the time of holder %d is over, or it has returned its seats\n", a) }

#define no_trace(s, a) && record[at(s, a)] == OFF && gone[at(s, a)] == OFF
#define NEXT(a) :: d_step { holder[a] == ENDED && message[a] == NOTHING && giver[a] == NOBODY \
  EACH_SERVER_FOR(no_trace, a) -> \
  holder[a] = WANTED; issuer[a] = NOBODY; last[a] = NOBODY; \
  printf("holder %d begins anew, with another id\n", a) }

/* ---- What happens: -DWITH_... for the parts that a configuration is about ---- */

#ifdef WITH_RENEWALS
#define RENEWALS EACH_SERVER(RENEW)
#else
#define RENEWALS
#endif
#ifdef WITH_RETURNS
#define RETURNS EACH_SERVER(CLAIM) EACH_SERVER(RECLAIM) EACH_SERVER(SERVER_UP)
#else
#define RETURNS
#endif
#ifdef WITH_CRASHES
#define CRASHES EACH_SERVER(CRASH)
#else
#define CRASHES
#endif
#ifdef WITH_LOSSES
#define LOSSES EACH_SERVER(CRASH_AND_LOSE) \
  EACH_PLACE(ASK_RECOVERING) EACH_PLACE(READMIT) EACH_SERVER(RECOVERED)
#else
#define LOSSES
#endif
#ifdef WITH_RELEASES
#define RELEASES EACH_SERVER(RELEASE) EACH_SERVER(RELEASED) EACH_SERVER(NOT_RELEASED)
#else
#define RELEASES
#endif
#ifdef WITH_HANDOVERS
#define HANDOVERS EACH_MOVE(HAND_OVER) EACH_MOVE(HANDED_OVER)
#else
#define HANDOVERS
#endif
#ifdef WITH_ADOPTIONS
#define ADOPTIONS EACH_MOVE(ASK) EACH_MOVE(ADOPT)
#else
#define ADOPTIONS
#endif

#define starts(s) alive[s] = true;
#define begins(a) issuer[a] = NOBODY; last[a] = NOBODY; giver[a] = NOBODY; taker[a] = NOBODY;
#ifdef SYMMETRIC
#include "symmetry.pml"
#define IN_ONE_ORDER c_code { in_one_order(); }
#else
#define IN_ONE_ORDER skip
#endif

/* Nothing is granted; or, to be sooner where something may go wrong, all is, by server 0,
   and all servers act. */
#ifdef BEGUN
#define holds(a) if :: a < SEATS / COUNT -> \
     holder[a] = HELD; issuer[a] = 0; record[at(0, a)] = BASE \
   :: else \
  fi;
#define leased(s) lease[s] = true;
#define BEGINNING EACH_HOLDER(holds) EACH_SERVER(leased) free = 0; seats[0] = SEATS
#else
#define BEGINNING skip
#endif

active proctype pool() {
  d_step {
    EACH_SERVER(starts)
    EACH_HOLDER(begins)
    BEGINNING
  }
  do
  :: atomic {
    if
    RENEWALS EACH_SERVER(LEASE_ENDS) EACH_SERVER(LEASE_EVENTS)
    EACH_SERVER(CALL) EACH_SERVER(SERVER_DOWN) RETURNS CRASHES LOSSES RELEASES
    EACH_SERVER(BORROW) EACH_PAIR(BORROW_FROM)
    HANDOVERS ADOPTIONS
    EACH_PLACE(FORGET) EACH_PLACE(GRANT) EACH_PLACE(ANSWER)
    EACH_PLACE(EXPIRE) EACH_PLACE(HEAR) EACH_PLACE(RECORD)
    EACH_PLACE(SEND) EACH_HOLDER(LOSE) EACH_HOLDER(RELY) EACH_HOLDER(CONFIRMS)
    EACH_HOLDER(END) EACH_HOLDER(NEXT)
    fi;
    IN_ONE_ORDER
  }
  od
}
