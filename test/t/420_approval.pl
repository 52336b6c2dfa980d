# Deliveries that a second person has to approve, that a guard holds, and documents of closed periods:
# held, approved, sent once, also when the hub dies in between; rejected; expired; never approved by
# whoever made the change.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', systems => [ 'billing', 'crm' ]);
my $node = $hub->node;
my ($super) = $hub->value('SELECT current_user');

$hub->sql(q{
	CREATE ROLE maker LOGIN; CREATE ROLE checker LOGIN; CREATE ROLE boss LOGIN SUPERUSER;
	GRANT sync_admin, sync_operator TO maker;
	GRANT sync_approver TO maker, checker;
	GRANT USAGE ON SCHEMA app TO maker, boss;
	GRANT ALL ON app.customer TO maker});

# As somebody else, under a login of his own; an error is returned, not died of.
sub as
{
	my ($role, $sql) = @_;
	my ($status, $out, $err) = $node->psql($hub->database, $sql, extra_params => [ '-U', $role ]);

	return $status == 0 ? $out : $err;
}

sub held
{
	my ($id) = @_;
	return $hub->sql("SELECT state, code FROM sync.pending WHERE record_id = '$id' AND route_id = (SELECT id FROM sync.route WHERE name = 'customer_to_billing') ORDER BY seq");
}

sub open_approval
{
	my ($id) = @_;
	$hub->poll_until("SELECT EXISTS (SELECT FROM sync.approval WHERE record_id = '$id' AND system = 'billing')");
	return $hub->value("SELECT id FROM sync.approval WHERE record_id = '$id' AND system = 'billing'");
}

sub write_as
{
	my ($role, $name) = @_;
	my $id = $hub->new_id;
	is(as($role, $hub->insert_sql($id, $name, status => 'large')), '', "$role writes $name");
	return $id;
}

sub seen
{
	my ($id) = @_;
	return join ', ', map { $_->{name} } @{ $hub->effects_of('billing')->{$id} // [] };
}

# Only what goes to billing is large; crm has a policy of its own object's condition, too, so look at one.
$hub->sql(q(SELECT sync.drop_route('customer_to_crm')));
is(as('maker', q{SELECT sync.set_approval_policy('large ones', 'deliver', 'customer', condition => $$status = 'large'$$, reason => 'four eyes')}), '',
	'a policy');

# ---- held, approved, sent once ----

my $small = $hub->write('small');
my $id = write_as('maker', 'held');
my $approval = open_approval($id);
$hub->wait_idle;
is(seen($small), 'small', 'what no policy is about goes by');
is(held($id), 'held|approval', 'what it is about is held');
is(seen($id), '', 'and not sent');
as('maker', $hub->rename_sql($id, 'held, later'));
$hub->poll_until("SELECT count(*) = 2 FROM sync.pending WHERE record_id = '$id'");
is(held($id), "held|approval\nbehind|", 'a later change stands behind it');
like($hub->sql("SELECT waiting_for FROM sync.record_status WHERE record_id = '$id'"), qr/waits for approval $approval: large ones/, 'the record says what it waits for');
is($hub->sql("SELECT kind, object, record_id, system FROM sync.task"), "approval|customer|$id|billing", 'it is a task');
like($hub->sql("SELECT message FROM sync.wait_for('customer', '$id', 'billing', '100 ms')"), qr/it is held: waits for approval/, 'wait_for tells why');

like(as('maker', "SELECT sync.approve($approval, 'mine')"), qr/who asked for approval $approval cannot grant it/, 'who made the change cannot approve it');
$hub->sql('ALTER ROLE maker SUPERUSER');
like(as('maker', "SELECT sync.approve($approval, 'mine')"), qr/SE065|cannot grant it/, 'nor as a superuser');
like(as('maker', "SET SESSION AUTHORIZATION checker; SELECT sync.approve($approval, 'mine')"), qr/"maker" asked for it/, 'nor behind another name');
$hub->sql('ALTER ROLE maker NOSUPERUSER');
like(as('checker', "SET sync_ext.actor = 'maker'; SELECT sync.approve($approval, 'for him')"), qr/cannot grant it/, 'nor through another');
like(as('checker', "SELECT sync.approve($approval, 'checked')"), qr/"state": "approved"/, 'another person can');
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.approval WHERE record_id = '$id' AND id > $approval)");
is(seen($id), 'held', 'exactly that change is sent');
my $second = open_approval($id);
like(as('checker', "SELECT sync.approve($second, 'checked')"), qr/approved/, 'the next one needs an approval of its own');
$hub->wait_idle;
is(seen($id), 'held, held, later', 'both, once, in order');
is_deeply([ $hub->broken(systems => ['billing']) ], [], 'nothing is lost, doubled or out of order');

# ---- the hub dies ----

foreach my $point (qw(push-claiming push-claimed push-answered push-recorded))
{
	my $dead = write_as('maker', "crash at $point");
	my $asked = open_approval($dead);
	my $offset = $hub->log_size;

	$hub->arm($point, 'kill');
	like(as('checker', "SELECT sync.approve($asked, 'checked')"), qr/approved|server closed the connection|terminating connection/, "approved, and killed at $point");
	$hub->wait_crash($point, $offset);
	$hub->wait_idle;
	is(seen($dead), "crash at $point", 'sent once');
}
my $before = $hub->new_id;
my $offset = $hub->log_size;
$hub->arm('push-claiming', 'kill');
as('maker', $hub->insert_sql($before, 'crash while asking', status => 'large'));
$hub->wait_crash('push-claiming', $offset);
my $asked = open_approval($before);
is($hub->value("SELECT count(*) FROM sync.approval_request WHERE record_id = '$before'"), 1, 'a crash before the question: it is asked once');
as('checker', "SELECT sync.approve($asked, 'checked')");
$hub->wait_idle;
is_deeply([ $hub->broken(systems => ['billing']) ], [], 'nothing is lost or doubled by crashes');

# ---- rejected ----

my $refused = write_as('maker', 'refused');
$asked = open_approval($refused);
as('maker', "UPDATE app.customer SET name = 'corrected', status = 'small' WHERE id = '$refused'");
like(as('checker', "SELECT sync.reject($asked, '')"), qr/a reason is required/, 'a rejection has a reason');
is(as('checker', "SELECT sync.reject($asked, 'too large')"), '', 'rejected');
$hub->wait_idle;
is(seen($refused), 'corrected', 'is never sent, the later change is');
is($hub->sql("SELECT state FROM sync.delivery WHERE record_id = '$refused' ORDER BY seq"), "discarded\ndone", 'history says so');
$hub->forget($refused);

# What was refused is in the next change, too: who made it cannot approve that either.
my $hidden = write_as('maker', 'hidden');
as('checker', 'SELECT sync.reject(' . open_approval($hidden) . ", 'no')");
$hub->sql("UPDATE app.customer SET name = 'hidden again' WHERE id = '$hidden'");
$asked = open_approval($hidden);
like($hub->value("SELECT requesters FROM sync.approval WHERE id = $asked"), qr/maker/, 'the author of what was refused counts as one');
as('checker', "SELECT sync.reject($asked, 'no')");
$hub->forget($hidden);

# ---- expired ----

my $late = write_as('maker', 'late');
$asked = open_approval($late);
$hub->sql("UPDATE sync.approval_request SET expires_at = clock_timestamp() WHERE id = $asked;
	UPDATE sync.pending SET next_attempt_at = clock_timestamp() WHERE record_id = '$late'; SELECT sync._change()");
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.dead_letter WHERE record_id = '$late' AND code = 'approval_expired')");
like(as('checker', "SELECT sync.approve($asked, 'too late')"), qr/approval $asked is expired/, 'what has expired cannot be approved');
$hub->sql("SELECT sync.retry(id) FROM sync.dead_letter WHERE record_id = '$late'");
$asked = open_approval($late);
as('checker', "SELECT sync.approve($asked, 'in time')");
$hub->wait_idle;
is(seen($late), 'late', 'a retry asks anew');

# ---- refused by the vendor ----

my $odd = $hub->new_id;
as('maker', $hub->insert_sql($odd, 'odd', status => 'large', billing_email => 'not an address'));
as('checker', 'SELECT sync.approve(' . open_approval($odd) . ", 'checked')");
$hub->wait_idle;
is($hub->value("SELECT code FROM sync.dead_letter WHERE record_id = '$odd'"), 'email_invalid', 'what was approved may still be refused there');
$hub->sql("SELECT sync.retry(id) FROM sync.dead_letter WHERE record_id = '$odd'");
$hub->wait_idle;
is($hub->value("SELECT count(*) FROM sync.approval_request WHERE record_id = '$odd'"), 1, 'a retry of the same needs no other approval');
is(held($odd), 'dead|email_invalid', 'and is refused again');
# The next manifest would send something else, for all that anybody knows.
my $manifest = SyncExt::Hub::manifest('stripe');
$manifest =~ s/("version":\s*")/${1}9/;
$hub->sql("SELECT sync.register_connector(\$manifest\$$manifest\$manifest\$::jsonb)");
$hub->poll_until(q(SELECT connector_version LIKE '9%' FROM sync.system_status WHERE system = 'billing'));
$hub->sql("SELECT sync.retry(id) FROM sync.dead_letter WHERE record_id = '$odd'");
my $anew = open_approval($odd);
is($hub->sql("SELECT state FROM sync.approval_request WHERE record_id = '$odd' ORDER BY id"), "lapsed\nopen", 'a request that may be another one is asked about anew');
as('checker', "SELECT sync.reject($anew, 'enough')");
$hub->wait_idle;
$hub->forget($odd);

# ---- removal of the policy frees what it holds ----

my $freed = write_as('maker', 'freed');
$asked = open_approval($freed);
my $drop = as('maker', q{SELECT sync.drop_approval_policy('large ones', 'no more')});
is(held($freed), 'held|approval', 'a policy holds until its removal is approved');
like(as('maker', "SELECT sync.approve($drop, 'mine')"), qr/cannot grant it/, 'by another person');
like(as('checker', "SELECT sync.approve($drop, 'agreed')"), qr/approved/, 'as here');
$hub->wait_idle;
is(seen($freed), 'freed', 'then nothing is held');
is($hub->value("SELECT state FROM sync.approval_request WHERE id = $asked"), 'lapsed', 'and what was asked has lapsed');

# ---- a guard on the route ----

$hub->sql(q{CREATE TABLE app.credit (customer_id uuid PRIMARY KEY); GRANT SELECT ON app.credit TO maker});
is(as('maker', q{SELECT sync.set_guard('credit', 'customer', $$EXISTS (SELECT FROM app.credit c WHERE c.customer_id = id)$$,
	'there is no credit check', 'route', applies => $$status = 'large'$$, system => 'billing', recheck => '1 s', reason => 'credit')}), '', 'a guard');
my $guarded = write_as('maker', 'guarded');
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.task WHERE kind = 'held' AND record_id = '$guarded')");
is(held($guarded), 'held|guard', 'holds what does not fulfil it');
is($hub->value("SELECT reason FROM sync.task WHERE record_id = '$guarded'"), 'there is no credit check', 'with its message');
$hub->sql("INSERT INTO app.credit VALUES ('$guarded')");
$hub->poll_until("SELECT NOT EXISTS (SELECT FROM sync.pending WHERE record_id = '$guarded')");
$hub->wait_idle;
is(seen($guarded), 'guarded', 'and lets it go by itself when it does');

# An event that is written after a guard was declared is held by it, also when the hub was about to look for
# events at that moment, with what it knew before.
as('maker', "SELECT sync.drop_guard('credit', 'done')");
$hub->wait_idle;
$hub->poll_until('SELECT NOT EXISTS (SELECT FROM sync._gated_routes())');
my $next = $hub->new_id;
my $insert = $hub->insert_sql($next, 'right after');
$hub->arm('push-looking', 'wait');
$hub->reached('push-looking');
as('maker', "SELECT sync.set_guard('never', 'customer', 'false', 'never', 'route', applies => \$\$name = 'right after'\$\$, reason => 'x');\n$insert");
$hub->disarm('push-looking');
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.pending WHERE record_id = '$next')
	OR EXISTS (SELECT FROM sync.delivery WHERE record_id = '$next' AND state = 'done')");
is(held($next), 'held|guard', 'nothing slips through between a declaration and its first reading');
as('maker', "SELECT sync.drop_guard('never', 'x')");
$hub->poll_until('SELECT NOT EXISTS (SELECT FROM sync.pending)');
$hub->wait_idle;

is_deeply([ $hub->broken(systems => ['billing']) ], [], 'all of it once and in order');
is($hub->sql("SELECT DISTINCT action FROM sync.audit WHERE action LIKE 'approval.%' ORDER BY 1"),
	"approval.expired\napproval.granted\napproval.lapsed\napproval.rejected\napproval.requested", 'all of it on record');

$node->stop;
done_testing();
