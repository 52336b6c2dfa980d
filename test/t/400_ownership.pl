# Two systems and an application that change the same records, through a real hub: what a system may not
# change is corrected there, two that insist become a conflict, a conflict changes neither side until
# somebody decides, and everything comes together again after kill -9.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $other = SyncExt::Sandbox->start;
my $hub = SyncExt::Hub->new('main', systems => []);
my $sandbox = $hub->sandbox;
my $node = $hub->node;
my %vendor = (crm => $sandbox, erp => $other);

$node->append_conf('postgresql.conf',
	"sync_ext.allowed_hosts = 'http://127.0.0.1:" . $sandbox->port . ", http://127.0.0.1:" . $other->port . "'");
$node->reload;

# The plain vendor with a third field, which makes the record's number.
my $manifest = $json->decode(SyncExt::Hub::manifest('rest'));
my $customer = $manifest->{objects}{customer};
$manifest->{name} = 'numbered';
$customer->{push}{operations}{$_}{body}{number} = { '$' => '$.new.number', omit => 'null' } foreach qw(create update);
$customer->{pull}{fields}{number} = { '$' => '$.number', omit => 'null' };
$customer->{pull}{on_delete} = 'delete';
my $text = $json->encode($manifest);
$hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
foreach my $system (sort keys %vendor)
{
	$node->secret($system, 'token', $SyncExt::Hub::REST_TOKEN);
	$hub->sql("CREATE SERVER $system FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'numbered',
			base_url '" . $vendor{$system}->url . "', settle_time '300 ms', rate_limit '1000/s', timeout '3 s');
		CREATE USER MAPPING FOR PUBLIC SERVER $system OPTIONS (token 'file:token');
		SELECT sync.create_route('$system', 'customer');
		SELECT sync.create_stream('$system', 'customer')");
}

sub make { my ($system, %data) = @_; return $vendor{$system}->rest(POST => '/customers', \%data)->{id} }
sub change { my ($system, $id, %data) = @_; $vendor{$system}->rest(PATCH => "/customers/$id", \%data); return }
sub remote { my ($system, $id) = @_; return $vendor{$system}->rest(GET => "/customers/$id") }

# Until what was pulled is applied, and what that made is delivered.
sub pull
{
	foreach my $system (@_)
	{
		$hub->sql("SELECT sync.request_pull('$system', 'customer')");
		$hub->wait_idle(120);
	}
	return;
}

sub twin
{
	my ($from, $id, $to) = @_;
	return $hub->value("SELECT b.remote_id FROM sync.external_id a JOIN sync.external_id b USING (object_id, record_id)
		JOIN sync.system y ON y.id = a.system_id AND y.name = '$from'
		JOIN sync.system z ON z.id = b.system_id AND z.name = '$to' WHERE a.remote_id = '$id'");
}

# Our id of a record of the crm.
sub record { return $hub->value("SELECT x.record_id FROM sync.external_id x JOIN sync.system y ON y.id = x.system_id WHERE y.name = 'crm' AND x.remote_id = '$_[0]'") }

sub row
{
	my ($id, $column) = @_;
	return $hub->value("SELECT $column FROM app.customer WHERE id = '" . record($id) . "'");
}

sub own
{
	my ($field, $system, $violation) = @_;
	$hub->sql("SELECT sync.set_owner('customer', '$field', '$system', '$violation', 'tested')");
	return;
}

sub conflicts { return $hub->sql("SELECT kind, coalesce(field, '-'), system, hub_value #>> '{}', remote_value #>> '{}' FROM sync.conflict ORDER BY id") }
sub conflict { return $hub->value("SELECT id FROM sync.conflict WHERE kind = '$_[0]'") }

sub resolve
{
	my ($kind, $take) = @_;
	$hub->sql('SELECT sync.resolve_conflict(' . conflict($kind) . ", '$take', 'tested')");
	$hub->wait_idle(60);
	return;
}

# Requests of ours that changed something at a system; those of its people have a header.
sub writes { my ($system) = @_; return scalar grep { $_->{method} ne 'GET' && ($_->{headers}{'user-agent'} // $_->{headers}{'User-Agent'} // '') !~ /HTTP-Tiny/ } @{ $vendor{$system}->requests(limit => 5000) } }

sub sound
{
	my ($name) = @_;
	is($hub->sql('SELECT * FROM sync.check_invariants()'), '', "$name: invariants");
	is($hub->value('SELECT count(*) FROM sync.pending'), 0, "$name: nothing is stuck")
	  or diag($hub->sql('SELECT route_id, record_id, state, code, message FROM sync.pending'));
	is($hub->value('SELECT count(*) FROM sync.inbox'), 0, "$name: nothing waits")
	  or diag($hub->sql('SELECT system, remote_id, state, reason FROM sync.inbox_status'));
	return;
}

# ---- a correction arrives, and at nobody else's ----

my @crm = map { make('crm', name => "Customer $_", email => "c$_\@example.com", number => "C-$_") } 1 .. 6;
pull('crm', 'erp');
my @erp = map { twin('crm', $_, 'erp') } @crm;
is(scalar(grep { defined && $_ ne '' } @erp), 6, 'six records are in both systems');

own('name', 'crm', 'correct');
my $before = writes('crm');
change('erp', $erp[0], name => 'Theirs', email => 'new@example.com');
pull('erp');
is(row($crm[0], 'name'), 'Customer 1', 'what the erp may not change stays');
is(remote('erp', $erp[0])->{name}, 'Customer 1', 'and is corrected there');
is(row($crm[0], 'billing_email'), 'new@example.com', 'what it may change goes in');
is(remote('crm', $crm[0])->{email}, 'new@example.com', 'and on to the owner of the other field');
is(writes('crm') - $before, 1, 'who hears of nothing else');
is($hub->value("SELECT count(*) FROM sync.violation WHERE outcome = 'corrected'"), 1, 'a person can see it');
change('crm', $crm[0], name => 'Renamed by its owner');
pull('crm', 'erp');
is(remote('erp', $erp[0])->{name}, 'Renamed by its owner', 'the owner may');
sound('corrected');

# ---- an application changes what a system owns: it is put back, and nobody there hears of it ----

my $mine = record($crm[5]);
$hub->sql("UPDATE app.customer SET name = 'Of the application', number = 'C-6b' WHERE id = '$mine'");
$hub->poll_until("SELECT name = 'Customer 6' FROM app.customer WHERE id = '$mine'");
$hub->wait_idle(60);
is(row($crm[5], 'number'), 'C-6b', 'what nobody owns stays changed');
is(remote('crm', $crm[5])->{number}, 'C-6b', 'and is sent');
is(remote('crm', $crm[5])->{name} . '|' . remote('erp', $erp[5])->{name}, 'Customer 6|Customer 6', 'both systems say what the owner says');
is(scalar(grep { ($_->{body} // '') =~ /Of the application/ } @{ $vendor{crm}->requests(limit => 5000) }), 0, 'the owner was not told otherwise');
is($hub->value('SELECT count(*) FROM sync.correction'), 0, 'nothing is left to be put back');
own('*', 'crm', 'correct');
$hub->sql("DELETE FROM app.customer WHERE id = '$mine'");
$hub->poll_until("SELECT EXISTS (SELECT FROM app.customer WHERE id = '$mine')");
$hub->wait_idle(60);
is(join('|', row($crm[5], 'name'), remote('crm', $crm[5])->{name}, remote('erp', $erp[5])->{name}), 'Customer 6|Customer 6|Customer 6',
	'a record that was deleted against its owner is back, and was never gone elsewhere');
$hub->sql("SELECT sync.drop_owner('customer', '*', 'tested')");
sound('put back');

# ---- two that insist ----

my $n = 0;
while (conflicts() eq '' && $n < 6)
{
	change('erp', $erp[1], name => 'Insists ' . ++$n);
	pull('erp');
}
is($n, 4, 'after three corrections a person is asked');
is(conflicts(), 'repeated|name|erp|Customer 2|Insists 4', 'with both values');
my $sent = writes('erp');
pull('erp', 'crm', 'erp');
is(writes('erp'), $sent, 'and nobody corrects any more');
change('erp', $erp[1], name => 'Insists still');
pull('erp');
is(conflicts(), 'repeated|name|erp|Customer 2|Insists still', 'what it says meanwhile is shown');
resolve('repeated', 'remote');
is(row($crm[1], 'name') . '|' . remote('crm', $crm[1])->{name}, 'Insists still|Insists still', 'the remote value is taken, and told the owner');
is(conflicts(), '', 'the conflict is over');
sound('insisted');

# ---- in conflict neither side is changed ----

$hub->sql("INSERT INTO sync.conflict_policy (object_id, policy) SELECT id, 'quarantine' FROM sync.object WHERE name = 'customer'");
$hub->sql("SELECT sync.drop_route('customer_to_erp', force => true)");
my $id = record($crm[2]);
$hub->sql("UPDATE app.customer SET billing_email = 'app\@example.com' WHERE id = '$id'");
change('erp', $erp[2], email => 'erp@example.com');
pull('erp');
is(conflicts(), 'field|billing_email|erp|app@example.com|erp@example.com', 'changed on both sides');
is(remote('crm', $crm[2])->{email}, 'app@example.com', 'the other system has ours');
$hub->sql("SELECT sync.create_route('erp', 'customer')");
$hub->sql("UPDATE app.customer SET number = 'C-3b' WHERE id = '$id'");
$hub->wait_idle(60);
is(remote('erp', $erp[2])->{number}, 'C-3b', 'the record goes on');
is(remote('erp', $erp[2])->{email}, 'erp@example.com', 'but for the field in conflict');
$hub->sql("UPDATE app.customer SET billing_email = 'app2\@example.com' WHERE id = '$id'");
$hub->wait_idle(60);
is(conflicts(), 'field|billing_email|erp|app2@example.com|erp@example.com', 'an application has changed its mind');
is(remote('erp', $erp[2])->{email}, 'erp@example.com', 'which they are not told either');
pull('erp');
is(conflicts(), 'field|billing_email|erp|app2@example.com|erp@example.com', 'the echo of what was sent decides nothing');
resolve('field', 'hub');
is(remote('erp', $erp[2])->{email}, 'app2@example.com', 'decided: it is told them');
pull('erp', 'crm');
is(row($crm[2], 'billing_email'), 'app2@example.com', 'and stays');
sound('decided for the hub');

# it ends by itself when an application says what they say
$hub->sql("SELECT sync.drop_route('customer_to_erp', force => true)");
$hub->sql("UPDATE app.customer SET billing_email = 'mine\@example.com' WHERE id = '$id'");
change('erp', $erp[2], email => 'yours@example.com');
pull('erp');
isnt(conflicts(), '', 'a new conflict');
$hub->sql("SELECT sync.create_route('erp', 'customer')");
$hub->sql("UPDATE app.customer SET billing_email = 'yours\@example.com' WHERE id = '$id'");
$hub->wait_idle(60);
is(conflicts(), '', 'both sides say the same: none');
sound('settled');

# ---- a record that they deleted and we had changed ----

$hub->sql("SELECT sync.drop_route('customer_to_erp', force => true)");
$id = record($crm[3]);
$hub->sql("UPDATE app.customer SET number = 'C-4b' WHERE id = '$id'");
$vendor{erp}->rest(DELETE => "/customers/$erp[3]");
pull('erp');
like(conflicts(), qr/^deleted\|-\|erp/, 'a delete of what was changed here');
$hub->sql("SELECT sync.create_route('erp', 'customer')");
resolve('deleted', 'hub');
my $anew = twin('crm', $crm[3], 'erp');
isnt($anew, $erp[3], 'it is made anew there');
is(remote('erp', $anew)->{number}, 'C-4b', 'as it stands here');
$erp[3] = $anew;
sound('made anew');

# ---- kill -9 in the middle of all that ----

$node->append_conf('postgresql.conf', 'sync_ext.correction_limit = 100');
$node->reload;
$hub->sql('DELETE FROM sync.conflict_policy');
my $round = 0;
foreach my $point (qw(pull_applied pull_before_commit pull_after_commit push-claimed push-answered push-recording push-recorded))
{
	my $offset = $hub->log_size;

	$round++;
	foreach my $i (0 .. 5)
	{
		# What is pushed holds the whole record, so the owner's own change is of a record that the others leave alone there.
		change('erp', $erp[$i], name => "erp $round");
		change('erp', $erp[$i], email => "erp$round-$i\@example.com") if $i % 3 == 0;
		change('crm', $crm[$i], name => "Owner $round") if $i % 3 == 1;
		$hub->sql("UPDATE app.customer SET number = 'R-$round-$i' WHERE id = '" . record($crm[$i]) . "'") if $i % 3 == 2;
	}
	$hub->wait_idle(60); # what the application wrote is delivered: the point is met by what the pulls make
	$hub->arm($point, 'kill');
	$hub->sql_before_crash(q(SELECT sync.request_pull('erp', 'customer'), sync.request_pull('crm', 'customer')));
	$hub->wait_crash($point, $offset);
	pull('crm', 'erp', 'crm', 'erp');
	my @wrong;
	foreach my $i (0 .. 5)
	{
		my %side = (crm => scalar remote('crm', $crm[$i]), erp => scalar remote('erp', $erp[$i]));

		foreach my $field (qw(name email number))
		{
			my $ours = row($crm[$i], $field eq 'email' ? 'billing_email' : $field);
			push @wrong, "$i: $field is $ours, $side{crm}{$field}, $side{erp}{$field}"
			  if $ours ne $side{crm}{$field} || $ours ne $side{erp}{$field};
			push @wrong, "$i: the erp's name was taken: $ours" if $field eq 'name' && $ours =~ /^erp/;
		}
		push @wrong, "$i: the erp's address is lost" if $i % 3 == 0 && row($crm[$i], 'billing_email') ne "erp$round-$i\@example.com";
		push @wrong, "$i: the application's number is lost" if $i % 3 == 2 && row($crm[$i], 'number') ne "R-$round-$i";
		push @wrong, "$i: the owner's name is lost" if $i % 3 == 1 && row($crm[$i], 'name') ne "Owner $round";
	}
	is_deeply(\@wrong, [], "killed at $point: all three say the same, and the owner's name");
	is(conflicts(), '', 'nobody is asked');
}
sound('at the end');
is($hub->value("SELECT count(*) FROM sync.mirror WHERE agreed IS NOT NULL"), 0, 'and nothing is left to agree on')
  or diag($hub->sql('SELECT system_id, remote_id, fields, agreed FROM sync.mirror WHERE agreed IS NOT NULL'));

done_testing();
