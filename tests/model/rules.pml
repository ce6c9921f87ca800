/* The rules: each is on unless its switch -DWITHOUT_... removes it. */

#ifdef WITHOUT_LEASE_CHECK
#define LEASE_CHECKED false
#else
#define LEASE_CHECKED true
#endif

#ifdef WITHOUT_RENEWAL_REFUSED
#define RENEWAL_REFUSED false
#else
#define RENEWAL_REFUSED true
#endif

#ifdef WITHOUT_DOWN_AFTER_LEASE
#define DOWN_AFTER_LEASE false
#else
#define DOWN_AFTER_LEASE true
#endif

#ifdef WITHOUT_RECLAIM_AFTER_TTL
#define RECLAIM_AFTER_TTL false
#else
#define RECLAIM_AFTER_TTL true
#endif

#ifdef WITHOUT_EARLIER_VOID
#define EARLIER_IS_VOID false
#else
#define EARLIER_IS_VOID true
#endif

#ifdef WITHOUT_CONFIRMATION
#define TWO_STEPS false
#else
#define TWO_STEPS true
#endif

#ifdef WITHOUT_STILL_VALID
#define STILL_VALID false
#else
#define STILL_VALID true
#endif

#ifdef WITHOUT_ADOPT_NAMES_DOWN
#define ADOPT_NAMES_DOWN false
#else
#define ADOPT_NAMES_DOWN true
#endif

#ifdef WITHOUT_ADOPTED_ONCE
#define ADOPTED_ONCE false
#else
#define ADOPTED_ONCE true
#endif

#ifdef WITHOUT_NOT_RECLAIMED
#define NOT_RECLAIMED false
#else
#define NOT_RECLAIMED true
#endif

#ifdef WITHOUT_DROP_ADOPTED
#define DROPS_ADOPTED false
#else
#define DROPS_ADOPTED true
#endif

#ifdef WITHOUT_DROP_RECLAIMED
#define DROPS_RECLAIMED false
#else
#define DROPS_RECLAIMED true
#endif

#ifdef WITHOUT_RECOVERY
#define RECOVERS false
#else
#define RECOVERS true
#endif

#ifdef WITHOUT_RECOVERY_CONFIRMED
#define RECOVERY_CONFIRMED false
#else
#define RECOVERY_CONFIRMED true
#endif

#ifdef WITHOUT_RECORD_TRUSTED
#define RECORD_TRUSTED false
#else
#define RECORD_TRUSTED true
#endif

#ifdef WITHOUT_MOVES_SEEN
#define MOVES_ARE_SEEN false
#else
#define MOVES_ARE_SEEN true
#endif

#ifdef WITHOUT_SET_ASIDE
#define SET_ASIDE false
#else
#define SET_ASIDE true
#endif

#ifdef WITHOUT_RELEASE_ONCE
#define RELEASE_ONCE false
#else
#define RELEASE_ONCE true
#endif

#ifdef WITHOUT_COUNT_FROM_SENT
#define COUNTS_FROM_SENT false
#else
#define COUNTS_FROM_SENT true
#endif

#ifdef WITHOUT_EXPIRY_AFTER_HOLDER
#define EXPIRY_AFTER_HOLDER false
#else
#define EXPIRY_AFTER_HOLDER true
#endif

#ifdef WITHOUT_LEAVING_COUNTS
#define LEAVING_COUNTS false
#else
#define LEAVING_COUNTS true
#endif

#ifdef WITHOUT_LEAVING_NOT_RENEWED
#define LEAVING_NOT_RENEWED false
#else
#define LEAVING_NOT_RENEWED true
#endif

#ifdef WITHOUT_LEAVING_STAYS
#define LEAVING_STAYS false
#else
#define LEAVING_STAYS true
#endif

#ifdef WITHOUT_ARRIVAL_RENEWS
#define ARRIVAL_RENEWS false
#else
#define ARRIVAL_RENEWS true
#endif

#ifdef WITHOUT_GONE_NOT_GRANTED
#define GONE_NOT_GRANTED false
#else
#define GONE_NOT_GRANTED true
#endif

#ifdef WITHOUT_FORGET_AFTER_TTL
#define FORGET_AFTER_TTL false
#else
#define FORGET_AFTER_TTL true
#endif

#ifdef WITHOUT_FORGET_SPARES_DOWN
#define FORGET_SPARES_DOWN false
#else
#define FORGET_SPARES_DOWN true
#endif

/* A server that has handed an authorization over hears of it at once, where that is no matter. */
#define HEARS_AT_ONCE LEAVING_NOT_RENEWED
