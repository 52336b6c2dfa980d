# Repairs against the sandbox: what a remedy shows is what is sent, and both sides agree afterwards. Breaks are
# written by hand; that runs find them is tested where they are made.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main');
my $sandbox = $hub->sandbox;
my %auth = (Authorization => "Bearer $SyncExt::Hub::REST_TOKEN");

$hub->sql(q(SELECT sync.create_stream('crm', 'customer')));

# A break; its id.
sub broken
{
	my ($kind, %column) = @_;
	my $columns = join '', map { ", $_" } sort keys %column;
	my $values = join '', map { ", '$column{$_}'" } sort keys %column;

	return $hub->sql("INSERT INTO sync.break_entry (source, fingerprint, kind, object$columns)
		VALUES ('test', gen_random_uuid(), '$kind', 'customer'$values) RETURNING id");
}

sub shown { my ($id, %option) = @_; return repair($id, %option, dry_run => 'true') }

sub repair
{
	my ($id, %option) = @_;
	my $arguments = join '', map { ", $_ => '$option{$_}'" } sort keys %option;

	$arguments .= ", dry_run => false, reason => 'test'" if !defined $option{dry_run};
	my $said = $hub->sql("SELECT action, method, target FROM sync.repair($id$arguments)");
	$hub->wait_idle if !defined $option{dry_run};
	return $said;
}

sub remote { my ($id) = @_; return scalar $sandbox->rest(GET => "/customers/$id", undef, \%auth) }

sub remote_id { my ($id) = @_; return $hub->value("SELECT sync.remote_id('customer', '$id', 'crm')") }

sub requests_to { my ($path) = @_; return scalar grep { $_->{path} =~ /\Q$path\E$/ } @{ $sandbox->requests(limit => 5000) } }

sub invariants { return $hub->sql('SELECT * FROM sync.check_invariants()') }

my ($lost, $changed, $theirs, $never) = map { $hub->write($_) } qw(lost changed theirs never);
$hub->wait_idle;
is_deeply([ $hub->broken ], [], 'before');

# ---- lost over there ----

my $old = remote_id($lost);
$sandbox->rest(DELETE => "/customers/$old", undef, \%auth);
my $break = broken('missing_there', record_id => $lost, system => 'crm');
my $before = @{ $sandbox->requests(limit => 5000) };
is(shown($break), "unbind||\nsend|POST|/rest/customers", 'a record that was lost would be made anew');
is(scalar @{ $sandbox->requests(limit => 5000) }, $before, 'and showing it sends nothing');
repair($break);
my $new = remote_id($lost);
isnt($new, $old, 'it has another remote id now');
is(remote($new)->{name}, 'lost', 'and stands there');
is(invariants(), '', 'invariants hold');
$hub->forget($lost);

# ---- changed over there: whoever owns it is right ----

$sandbox->rest(PATCH => '/customers/' . remote_id($changed), { name => 'by mistake' }, \%auth);
$hub->sql(q(SELECT sync.set_owner('customer', 'name', 'hub', 'ignore')));
$break = broken('field_differs', record_id => $changed, system => 'crm', field => 'name', theirs => '"by mistake"');
is(shown($break), 'send|PATCH|/rest/customers/' . remote_id($changed), 'the hub owns the name and would tell it');
repair($break);
is(remote(remote_id($changed))->{name}, 'changed', 'theirs is corrected');

$hub->sql(q(SELECT sync.set_owner('customer', 'name', 'crm', 'ignore')));
$sandbox->rest(PATCH => '/customers/' . remote_id($theirs), { name => 'their choice' }, \%auth);
$hub->poll_until("SELECT NOT EXISTS (SELECT FROM sync._unfinished)");
$break = broken('field_differs', record_id => $theirs, system => 'crm', field => 'name', theirs => '"their choice"');
like(shown($break), qr{^write\|\|\nread\|GET\|/rest/customers/}, 'the system owns it, and its value would be written here');
repair($break);
is($hub->value("SELECT name FROM app.customer WHERE id = '$theirs'"), 'their choice', 'ours is corrected');
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.claim c JOIN sync.route r ON r.id = c.route_id JOIN sync.system y ON y.id = r.system_id
	WHERE y.name = 'billing' AND c.record_id = '$theirs' AND c.request LIKE '%their%choice%')");
pass('and the other system hears of it');
is(invariants(), '', 'invariants hold');
$hub->sql(q(SELECT sync.drop_owner('customer', 'name')));

# ---- missing here ----

my $found = scalar $sandbox->rest(POST => '/customers', { name => 'unseen', email => 'unseen@example.com' }, \%auth);
$break = broken('missing_here', remote_id => $found->{id}, system => 'crm');
is(shown($break), "read|GET|/rest/customers/$found->{id}", 'what is missing here would be read by id');
repair($break);
$hub->poll_until("SELECT EXISTS (SELECT FROM app.customer WHERE name = 'unseen')");
pass('and is here');
is($hub->value("SELECT count(*) FROM sync.external_id WHERE remote_id = '$found->{id}'"), 1, 'bound');

# ---- held: the same delivery, not another one ----

$sandbox->fault(kind => 'status', status => 400, body => '{"code": "bad", "message": "no"}', match => { path => '/rest/customers', method => 'PATCH' }, times => 1);
$hub->sql("UPDATE app.customer SET name = 'never, changed' WHERE id = '$never'");
$hub->poll_until("SELECT EXISTS (SELECT FROM sync.dead_letter WHERE record_id = '$never')");
$break = broken('field_differs', record_id => $never, system => 'crm', field => 'name', theirs => '"never"');
is(shown($break, remedy => 'push_again'), 'retry||', 'a record whose change is a dead letter has that one retried');
repair($break, remedy => 'push_again');
is(remote(remote_id($never))->{name}, 'never, changed', 'and it arrives');

# ---- bound wrongly ----

my $unbound = remote_id($never);
$break = broken('duplicate', record_id => $never, remote_id => $unbound, system => 'crm');
repair($break, remedy => 'unbind');
is(remote_id($never) // '', '', 'a binding is ended');
$break = broken('orphan', remote_id => $unbound, system => 'crm');
repair($break, remedy => 'bind', options => qq({"record_id": "$never"}));
is(remote_id($never), $unbound, 'and made');

# ---- lost here ----

my $kept = remote_id($never);
$hub->sql("SET session_replication_role = replica; DELETE FROM app.customer WHERE id = '$never'");
$break = broken('orphan', record_id => $never, remote_id => $kept, system => 'crm');
is(shown($break, remedy => 'pull_again'), "unbind||\nread|GET|/rest/customers/$kept", 'a record that was lost here would be read');
repair($break, remedy => 'pull_again');
$hub->poll_until("SELECT EXISTS (SELECT FROM app.customer WHERE id = '$never')");
is($hub->value("SELECT name FROM app.customer WHERE id = '$never'"), 'never, changed', 'and comes back as it is there, under its own id');
is(remote_id($never), $kept, 'bound as it was');

# ---- twice over there ----

my $twin = scalar $sandbox->rest(POST => '/customers', { name => 'twin', email => 'twin@example.com' }, \%auth);
$break = broken('duplicate', record_id => $never, remote_id => $twin->{id}, system => 'crm');
is(shown($break, remedy => 'delete_there'), "call|DELETE|/rest/customers/$twin->{id}", 'the second one would be deleted there');
repair($break, remedy => 'delete_there');
$hub->poll_until("SELECT state = 'done' FROM sync.api_call");
is(($sandbox->rest(GET => "/customers/$twin->{id}", undef, \%auth))[0], 410, 'and is gone');

# ---- an operation over there: the binding stays ----

my $ended = $hub->write('ended');
$hub->wait_idle;
my $there = remote_id($ended);
$break = broken('field_differs', record_id => $ended, system => 'crm', field => 'name', theirs => '"over"');
is(shown($break, remedy => 'call_there', options => '{"operation": "delete"}'), "call|DELETE|/rest/customers/$there", 'an operation of the connector would be called');
repair($break, remedy => 'call_there', options => '{"operation": "delete"}');
$hub->poll_until("SELECT NOT EXISTS (SELECT FROM sync.api_call WHERE state <> 'done')");
is(($sandbox->rest(GET => "/customers/$there", undef, \%auth))[0], 410, 'it was');
is(remote_id($ended), $there, 'and the binding stays');
$hub->forget($ended);
is($hub->value("SELECT count(*) FROM sync.break_note"), 10, 'each repair left its note');
is(invariants(), '', 'invariants hold');

# ---- found, repaired, found no more ----

# Runs a comparison until it is done; the breaks that are open then.
sub reconciled
{
	my ($mode) = @_;
	my $run = $hub->value("SELECT sync.reconcile('crm', 'customer', mode => '$mode')");

	$hub->poll_until("SELECT state <> 'running' FROM sync.reconciliation WHERE id = $run");
	is($hub->value("SELECT concat_ws(': ', state, error) FROM sync.reconciliation WHERE id = $run"), 'done', "a run of mode $mode");
	return $hub->sql("SELECT id, kind, record_id, field FROM sync.reconciliation_break WHERE source LIKE 'record:crm:%' AND status = 'open' ORDER BY id");
}

$hub->sql(q(SELECT sync.set_owner('customer', 'name', 'crm', 'ignore')));
$hub->sql("UPDATE sync.break_entry SET status = 'resolved', resolved_at = now()");
my %left = map { $_ => 1 } split /\n/, reconciled('full');
repair((split /\|/)[0]) foreach keys %left;
$sandbox->rest(DELETE => '/customers/' . remote_id($theirs), undef, \%auth);
$hub->sql("SET session_replication_role = replica; UPDATE app.customer SET name = 'behind everybody' WHERE id = '$changed'");
my @found = split /\n/, reconciled('full');
is(join(' ', sort map { join ':', (split /\|/)[ 1, 2 ] } @found), join(' ', sort "field_differs:$changed", "missing_there:$theirs"),
	'a listing finds what was planted') or diag(join "\n", @found);
repair((split /\|/)[0]) foreach @found;
is(reconciled('full'), '', 'and no more when it is repaired');
is($hub->value("SELECT name FROM app.customer WHERE id = '$changed'"), 'changed', 'the owner was right');
is(remote(remote_id($theirs))->{name}, 'their choice', 'what was lost is there again');
is($hub->value("SELECT count(*) FROM sync.break_entry WHERE source LIKE 'record:crm:%' AND status = 'resolved' AND resolved_by IS NULL"), scalar(@found) + keys(%left),
	'the breaks have closed by themselves');
is(invariants(), '', 'invariants hold');

done_testing();
