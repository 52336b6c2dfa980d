# Reconciliation at fixed times by pg_cron: what it was told to run it runs, breaks are opened and told
# of, and a schedule that is taken back leaves nothing behind.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use Test::More;

# The server with assertions is built without; Debian's always has it here.
chomp(my $share = `pg_config --sharedir`);
plan skip_all => 'this server has no pg_cron' if !-e "$share/extension/pg_cron.control" && $share !~ m{^/usr/share/};

my $node = SyncExt::Cluster->new('main', conf => <<'EOF_CONF', database => 'books');
shared_preload_libraries = 'sync_ext,pg_cron'
cron.database_name = 'books'
cron.use_background_workers = on
EOF_CONF

sub refused { my ($sql) = @_; my ($status, $out, $err) = $node->psql('books', $sql); return $status ? $err : '' }

like(refused("SELECT sync.schedule_reconciliation('nightly', '* * * * *')"), qr/need the extension pg_cron.*HINT:  Install it here/s,
	'without pg_cron a schedule is refused with a hint');
$node->sql('CREATE EXTENSION pg_cron');

$node->sql(<<'EOF_SQL');
CREATE TABLE public.wrong (n integer PRIMARY KEY, difference numeric, day date);
INSERT INTO public.wrong VALUES (1, 5, current_date), (2, 7, current_date - 100);
SELECT sync.create_reconciliation_rule('wrong', $$SELECT 'thing' AS object, w.n AS record_id, w.difference, 'EUR' AS currency, w.day AS period FROM public.wrong w$$, 'd', 'r');
SELECT sync.create_reconciliation_rule('fails', $$SELECT 'thing' AS object, (1 / (w.n - w.n))::text AS record_id FROM public.wrong w$$, 'd', 'r');
EOF_SQL
like(refused("SELECT sync.schedule_reconciliation('Nightly', '* * * * *')"), qr/invalid name "Nightly"/, 'a name is a word');
like(refused("SELECT sync.schedule_reconciliation('nightly', '* * * * *', mode => 'guess')"), qr/invalid schedule.*HINT/s, 'a mode is one of three');
like(refused("SELECT sync.schedule_reconciliation('nightly', 'now and then')"), qr/invalid schedule/, 'what pg_cron does not understand it refuses');
is($node->value('SELECT count(*) FROM sync.reconciliation_schedule'), 0, 'and nothing of it stays');

$node->sql("SELECT sync.schedule_reconciliation('nightly', '* * * * *', months => 2)");
like(refused("SELECT sync.schedule_reconciliation('nightly', '0 3 * * *')"), qr/exists already/, 'a name is used once');
is($node->value("SELECT count(*) FROM cron.job WHERE jobname = 'sync_ext books reconciliation nightly' AND database = 'books'"), 1, 'pg_cron has the job');

$node->poll_until("SELECT count(*) > 0 FROM sync.reconciliation_schedule WHERE last_run_at IS NOT NULL", 130);
is($node->sql("SELECT record_id, difference, status FROM sync.break_entry ORDER BY id"), '1|5|open', 'it ran at its time, over two months, and opened the break that is in them');
is($node->value("SELECT count(*) FROM sync.audit WHERE action = 'reconciliation.differs'"), 1, 'which is on record');
is($node->sql('SELECT DISTINCT source, state, error FROM sync.reconciliation ORDER BY 1'), "rule:fails|failed|division by zero\nrule:wrong|done|", 'beside a rule that fails');
is($node->value('SELECT count(DISTINCT xmin::text) = count(*) FROM sync.reconciliation'), 't', 'each run in a transaction of its own');

$node->sql("SELECT sync.unschedule_reconciliation('nightly')");
is($node->value("SELECT count(*) FROM cron.job"), 0, 'taken back, pg_cron has no job');
is($node->sql("SELECT action FROM sync.audit WHERE action ~ '^reconciliation.(un)?scheduled' ORDER BY id"), "reconciliation.scheduled\nreconciliation.unscheduled", 'both are on record');

# A job that pg_cron still has, in a copy for example, finds no schedule and does nothing.
my $runs = $node->value('SELECT count(*) FROM sync.reconciliation');
$node->sql("CALL sync._scheduled('nightly')");
is($node->value('SELECT count(*) FROM sync.reconciliation'), $runs, 'a job without its schedule does nothing');

$node->stop;
done_testing;
